# SPDX-License-Identifier: Apache-2.0
"""What GPUs need of the forward and backward pass, checked without one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from jax_surgery.models import attention_kernels, compute, logprobs
from jax_surgery.models.output_head import Head


def equations(jaxpr):
    """All equations of a program, in the inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_gradients_of_logits_are_products_of_bfloat16():
    """Products with a float32 operand are slow on GPUs, and need the head in float32."""
    hidden, head = jnp.ones((8, 16), jnp.bfloat16), jnp.ones((16, 32), jnp.bfloat16)

    def loss(hidden, head):
        return jax.nn.log_softmax(logprobs.logits(hidden, Head(head)))[:, 0].sum()

    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(hidden, head)
    products = [
        e for e in equations(program.jaxpr) if e.primitive.name == "dot_general"
    ]
    assert len(products) == 3
    kinds = {v.aval.dtype for e in products for v in e.invars}
    assert kinds == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_logits_are_those_of_the_plain_product(dtype):
    random = np.random.default_rng(0)
    hidden = jnp.asarray(random.normal(size=(3, 5, 16)), dtype)
    head = jnp.asarray(random.normal(size=(16, 32)), dtype)
    slope = jnp.asarray(random.normal(size=(3, 5, 32)), "float32")

    def loss(logits):
        return lambda *arrays: (slope * jnp.tanh(logits(*arrays))).sum()

    def plain(hidden, head):
        return jnp.einsum(
            "btd,dv->btv", hidden, head, preferred_element_type=jnp.float32
        )

    exact = jax.grad(loss(plain), (0, 1))(
        hidden.astype("float32"), head.astype("float32")
    )
    ours = lambda hidden, head: logprobs.logits(hidden, Head(head))
    found = jax.grad(loss(ours), (0, 1))(hidden, head)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == dtype
        scale = np.abs(b).max()
        limit = 1e-6 if dtype == "float32" else 2e-2
        np.testing.assert_allclose(a.astype("float32") / scale, b / scale, atol=limit)


@pytest.fixture
def cudnn_here(monkeypatch):
    """Lets cuDNN's attention be traced on a machine without it."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91900)
    monkeypatch.setattr(cudnn, "check_is_flash_attention", lambda *_, **__: None)


def passes(remat: str, tokens: int):
    """The attention calls of a forward and a backward pass of a layer."""
    segments = jnp.ones((2, tokens), jnp.int32)
    array = jnp.ones((2, tokens, 2, 64), jnp.bfloat16)
    attend = attention_kernels.self_attention("cudnn", segments, "bfloat16")

    def layer(x):
        return jnp.tanh(attend(jnp.tanh(x), x, x)).astype(jnp.float32).sum()

    kept = jax.checkpoint(layer, policy=compute.REMAT[remat])
    program = jax.make_jaxpr(jax.grad(kept))(array)
    return [e for e in equations(program.jaxpr) if e.primitive.name == compute.CUDNN]


@pytest.mark.parametrize(
    ("remat", "calls"), [("dots", 1), ("projections", 1), ("context", 1), ("full", 2)]
)
def test_attention_of_cudnn_is_not_computed_twice(cudnn_here, remat, calls):
    assert len(passes(remat, 256)) == calls


@pytest.mark.parametrize(("tokens", "kind"), [(256, "NO_MASK"), (2048, "CAUSAL")])
def test_cudnn_leaves_out_hidden_blocks_of_long_rows(cudnn_here, tokens, kind):
    [call] = passes("context", tokens)
    assert call.params["mask_type"] == cudnn.MaskType[kind]


def test_layers_of_micro_batches_are_looped_on_gpus_alone():
    plain = compute.Compute("bfloat16", "dots", unroll=0, attention="auto")
    assert plain.layers_per_step("gpu", 2**20) > 1
    assert plain.of_micro_batches("gpu").layers_per_step("gpu", 2**20) == 1
    assert plain.of_micro_batches("cpu") == plain
    chosen = dataclasses.replace(plain, unroll=4)
    assert chosen.of_micro_batches("gpu") == chosen
