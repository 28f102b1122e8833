# SPDX-License-Identifier: Apache-2.0
"""Every attention equals float64 NumPy on packed rows, gradients too; TPU's compiles."""

import functools
import importlib.util
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
from dense_logprobs import capped

from jax_surgery.models import attention, attention_kernels
from jax_surgery.models.attention import PLAIN
from jax_surgery.models.attention_kernels import self_attention
from jax_surgery.models.config import Scores

ROWS, TOKENS, WIDTH = 2, 128, 16


def arrays(heads: int, kv_heads: int, seed: int = 0):
    """q, k, v of unit variance, and packed segments with padding at the end."""
    rng = np.random.default_rng(seed)
    q, k, v = (
        rng.normal(size=(ROWS, TOKENS, n, WIDTH)) for n in (heads, kv_heads, kv_heads)
    )
    segments = np.zeros((ROWS, TOKENS), np.int32)
    for row, ends in enumerate([(5, 60, 61, 110), (128,)]):
        for number, (start, end) in enumerate(zip((0, *ends), ends), start=1):
            segments[row, start:end] = number
    return q, k, v, segments


def dense(q, k, v, segments, cotangent, window=0, scores=PLAIN):
    """Attention and its gradients in float64, one head at a time."""
    out, grads = np.zeros_like(q), [np.zeros_like(x) for x in (q, k, v)]
    groups = q.shape[2] // k.shape[2]
    scale = scores.scale or 1 / math.sqrt(WIDTH)
    for b in range(ROWS):
        seen = segments[b][:, None] == segments[b][None]
        seen &= np.tril(np.ones((TOKENS, TOKENS), bool))
        if window:  # the token itself and those before it
            seen &= ~np.tril(np.ones((TOKENS, TOKENS), bool), -window)
        for n in range(q.shape[2]):
            m = n // groups
            products, slope = capped(scale * q[b, :, n] @ k[b, :, m].T, scores.softcap)
            seen_products = np.where(seen, products, -np.inf)
            p = np.exp(seen_products - seen_products.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            out[b, :, n] = p @ v[b, :, m]
            d = cotangent[b, :, n]
            dp = d @ v[b, :, m].T
            ds = scale * slope * p * (dp - (dp * p).sum(-1, keepdims=True))
            grads[0][b, :, n] += ds @ k[b, :, m]
            grads[1][b, :, m] += ds.T @ q[b, :, n]
            grads[2][b, :, m] += p.T @ d
    return out, grads


@pytest.mark.parametrize(
    "heads, kv_heads, window, scores",
    [
        (2, 2, 0, PLAIN),
        (4, 2, 0, Scores(0.4, 0.9)),
        (4, 1, 0, PLAIN),
        (4, 2, 20, Scores(softcap=1.5)),
    ],
)
@pytest.mark.parametrize("kind", ["xla", "splash"])
def test_equals_float64_on_packed_rows(kind, heads, kv_heads, window, scores):
    q, k, v, segments = arrays(heads, kv_heads)
    cotangent = np.random.default_rng(1).normal(size=q.shape)
    cotangent[segments == 0] = 0  # nothing is learned from padding
    wanted, wanted_grads = dense(q, k, v, segments, cotangent, window, scores)

    @functools.partial(jax.jit, static_argnums=())
    def run(q, k, v):
        attend = self_attention(
            kind, jnp.asarray(segments), "float32", window, kind == "splash", scores
        )
        out, back = jax.vjp(attend, q, k, v)
        return out, back(jnp.float32(cotangent))

    out, grads = run(*(jnp.float32(x) for x in (q, k, v)))
    real = segments > 0
    np.testing.assert_allclose(np.asarray(out)[real], wanted[real], atol=2e-5)
    for got, want in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-4)


def test_the_gradient_of_a_rotation_is_that_of_its_formula():
    rng = np.random.default_rng(0)
    x, cotangent = (jnp.float32(rng.normal(size=(1, 5, 2, 6))) for _ in "ab")
    angle = jnp.float32(rng.normal(size=(1, 5, 1, 3)))
    cos, sin = (f(angle) for f in (jnp.cos, jnp.sin))
    both = functools.partial(jnp.concatenate, axis=-1)

    def formula(x):
        left, right = x[..., :3], x[..., 3:]
        return both([left * cos - right * sin, right * cos + left * sin])

    def rotated(x):
        return attention.rotate(x, both([cos, cos]), both([-sin, sin]))

    for f in (lambda f: f(x), lambda f: jax.vjp(f, x)[1](cotangent)[0]):
        np.testing.assert_allclose(f(rotated), f(formula), rtol=1e-5, atol=1e-6)


def test_auto_follows_the_platform():
    assert attention_kernels.choose("tpu", "bfloat16") == "splash"
    assert attention_kernels.choose("tpu", "float32") == "splash"
    assert attention_kernels.choose("cpu", "bfloat16") == "xla"
    assert attention_kernels.choose("gpu", "bfloat16") == "cudnn"
    assert attention_kernels.choose("gpu", "float32") == "xla"
    # Neither a capped score nor, on the machine of this test, a wide head is cuDNN's.
    capped_scores, wide = Scores(softcap=50.0), Scores(width=256)
    assert attention_kernels.choose("tpu", "bfloat16", capped_scores) == "splash"
    assert attention_kernels.choose("gpu", "bfloat16", capped_scores) == "xla"
    assert attention_kernels.choose("gpu", "bfloat16", wide) == "xla"
    assert attention_kernels.choose("gpu", "bfloat16", Scores(width=128)) == "cudnn"


@pytest.mark.parametrize(
    ("capability", "widest"), [("7.5", 0), ("8.0", 128), ("9.0", 256), ("12.0", 256)]
)
def test_auto_asks_the_gpu_which_heads_cudnn_takes(capability, widest, monkeypatch):
    """A T4 (7.5) has no such kernel."""
    gpu = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [gpu])
    for width in (64, 128, 256):
        chosen = attention_kernels.choose("gpu", "bfloat16", Scores(width=width))
        assert (chosen == "cudnn") == (width <= widest)


def test_rows_that_a_kernel_cannot_take_are_an_error_and_no_fallback():
    with pytest.raises(ValueError, match=r"context=200.*use 256"):
        self_attention("splash", jnp.ones((1, 200), jnp.int32), "bfloat16")
    with pytest.raises(ValueError, match="cuDNN's kernel takes bfloat16"):
        self_attention("cudnn", jnp.ones((1, 128), jnp.int32), "float32")
    with pytest.raises(ValueError, match="caps attention's scores at 50: cuDNN"):
        segments = jnp.ones((1, 128), jnp.int32)
        self_attention("cudnn", segments, "bfloat16", scores=Scores(softcap=50.0))
    assert attention_kernels.block_size(4096) == 1024
    assert attention_kernels.block_size(384) == 384
    assert attention_kernels.block_size(4096, 256) == 512


def test_cudnn_is_asked_for_a_fused_kernel_with_the_segments_mask(monkeypatch):
    """Lowered for a GPU that is not here; the kernel itself runs on none of ours."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(
        cudnn, "check_compute_capability", lambda capability: True, raising=False
    )
    shape = jax.ShapeDtypeStruct((2, 128, 4, 64), jnp.bfloat16)

    def run(q, k, v):
        attend = self_attention("cudnn", jnp.ones((2, 128), jnp.int32), "bfloat16")
        return attend(q, k, v)

    lowered = (
        jax.jit(run).trace(shape, shape, shape).lower(lowering_platforms=("cuda",))
    )
    assert "__cudnn$fmha" in lowered.as_text()


@pytest.mark.parametrize("window", [0, 20])
def test_cudnn_is_given_what_a_token_may_see(monkeypatch, window):
    """Its call, answered by XLA in float32: the kernel runs on no machine of ours."""
    on_gpu = jax.nn.dot_product_attention

    def answered(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return on_gpu(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answered)
    q, k, v, segments = arrays(4, 2)
    scores = Scores(0.4) if window else PLAIN
    wanted, _ = dense(q, k, v, segments, np.zeros_like(q), window, scores)
    ids = jnp.asarray(segments)
    attend = self_attention("cudnn", ids, "bfloat16", window, scores=scores)
    found = np.asarray(attend(*(jnp.float32(x) for x in (q, k, v))))
    real = segments > 0
    np.testing.assert_allclose(found[real], wanted[real], atol=2e-5)


COMPILE = """
import jax, jax.numpy as jnp
from jax_surgery.plan import topologies
topologies.prepare()
from jax.sharding import NamedSharding, PartitionSpec as P
from jax_surgery.models.attention import by_window
from jax_surgery.models.attention_kernels import self_attention
from jax_surgery.models.config import Scores
from jax_surgery.parallel import mesh as meshes
devices = topologies.devices("v5e:2x2")
mesh = meshes.make_mesh(meshes.MeshShape(fsdp=2, tp=2), devices)
with jax.set_mesh(mesh):
    def loss(q, k, v, segments, which):
        make = lambda window: self_attention(
            "auto", segments, "bfloat16", window, scores=Scores(0.1, 50.0, 256))
        attend_of, _ = by_window((0, 200), make)
        return attend_of(which)(q, k, v).astype(jnp.float32).sum()
    def shape(heads):
        place = NamedSharding(mesh, P(meshes.ROWS, None, "tp"))
        return jax.ShapeDtypeStruct((4, 1024, heads, 256), jnp.bfloat16, sharding=place)
    segments = jax.ShapeDtypeStruct(
        (4, 1024), jnp.int32, sharding=NamedSharding(mesh, P(meshes.ROWS)))
    grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    which = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(mesh, P()))
    arrays = shape(8), shape(2), shape(2), segments, which
    text = grad.lower(*arrays).compile().as_text()
    print("kernels", text.count("tpu_custom_call"))
    print("scores", "[1024,1024]" in text)
"""


def test_the_tpu_path_compiles_to_the_kernel_and_holds_no_scores():
    """Of the widest heads, and with a cap, which take most of the chip's own memory."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (the extra `plan`)")
    printed = on_devices.run(COMPILE, devices=1, XLA_FLAGS="")
    # Forward and backward, with and without a window, each one kernel or more.
    assert int(printed.split("kernels ")[1].split()[0]) >= 4
    assert "scores False" in printed
