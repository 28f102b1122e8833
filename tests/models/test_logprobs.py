# SPDX-License-Identifier: Apache-2.0
"""Chunked log-probabilities and KL equal the dense ones in float64, gradients too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.models import logprobs

ROWS, TOKENS, WIDTH, VOCAB = 2, 9, 6, 23
DIRECTIONS = ("model_to_reference", "reference_to_model")
chunks = st.sampled_from([1, 2, 7, 8, 17, 18, 19, 40])


def arrays(seed: int):
    """Hidden states and heads of a model and a reference, and targets."""
    rng = np.random.default_rng(seed)
    hidden_BTD, other_BTD = rng.normal(size=(2, ROWS, TOKENS, WIDTH))
    head_DV, other_DV = rng.normal(size=(2, WIDTH, VOCAB))
    targets_BT = rng.integers(0, VOCAB, (ROWS, TOKENS))
    return hidden_BTD, head_DV, other_BTD, other_DV, targets_BT


def softmax(logits):
    """(log p, p) over the last axis, float64."""
    shifted = logits - logits.max(-1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logp, np.exp(logp)


def cotangents(dz_BTV, hidden_BTD, head_DV):
    """Gradients of hidden states and head from those of the logits."""
    return (
        dz_BTV @ head_DV.T,
        np.einsum("btd,btv->dv", hidden_BTD, dz_BTV),
    )


def both_gradients(function, hidden_BTD, head_DV, weights_BT):
    def total(hidden, head):
        return (weights_BT * function(hidden, head)).sum()

    f32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return jax.grad(total, argnums=(0, 1))(f32(hidden_BTD), f32(head_DV))


def assert_close(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@settings(max_examples=12, deadline=None)
@given(chunk=chunks, seed=st.integers(0, 9))
def test_logp_and_margin_equal_the_dense_ones(chunk, seed):
    hidden, head, _, _, targets = arrays(seed)
    logp, p = softmax(hidden @ head)
    onehot = np.eye(VOCAB)[targets]
    at = (logp * onehot).sum(-1)
    at_p = (p * onehot).sum(-1)
    found = logprobs.token_logprobs(
        jnp.float32(hidden), jnp.float32(head), jnp.asarray(targets), chunk=chunk
    )
    assert_close(found[:2], (at, at - np.log1p(-at_p)))
    np.testing.assert_array_equal(found.top_BT, logp.argmax(-1) == targets)

    weights = np.random.default_rng(seed).normal(size=targets.shape)
    d_logp = onehot - p
    for name, dz in (
        ("logp_BT", d_logp),
        ("margin_BT", d_logp / (1 - at_p)[..., None]),
    ):
        got = both_gradients(
            lambda h, w, name=name: getattr(
                logprobs.token_logprobs(h, w, jnp.asarray(targets), chunk=chunk), name
            ),
            hidden,
            head,
            weights,
        )
        assert_close(got, cotangents(weights[..., None] * dz, hidden, head))


@settings(max_examples=8, deadline=None)
@given(chunk=chunks, seed=st.integers(0, 9), count=st.integers(1, 5))
def test_candidates_equal_the_dense_ones(chunk, seed, count):
    hidden, head, _, _, _ = arrays(seed)
    wanted = np.random.default_rng(seed).integers(0, VOCAB, (ROWS, TOKENS, count))
    logp, _ = softmax(hidden @ head)
    got = logprobs.candidate_logprobs(
        jnp.float32(hidden), jnp.float32(head), jnp.asarray(wanted), chunk=chunk
    )
    assert_close([got], [np.take_along_axis(logp, wanted, -1)])


def test_the_margin_of_a_sure_token_is_exact_and_has_a_gradient():
    """-CE is flat at p = 1; the margin is not."""
    head = jnp.eye(4, dtype=jnp.float32)
    hidden = jnp.float32([[[60.0, 0, 0, 0]]])
    target = jnp.zeros((1, 1), jnp.int32)
    found = logprobs.token_logprobs(hidden, head, target)
    assert found.logp_BT[0, 0] == pytest.approx(0, abs=1e-7)
    assert found.margin_BT[0, 0] == pytest.approx(60 - np.log(3), rel=1e-6)
    margin = jax.grad(
        lambda h: logprobs.token_logprobs(h, head, target).margin_BT.sum()
    )
    assert margin(hidden)[0, 0, 0] == pytest.approx(1)
    plain = jax.grad(lambda h: logprobs.token_logprobs(h, head, target).logp_BT.sum())
    assert abs(plain(hidden)[0, 0, 0]) < 1e-7


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize(
    "rows, tokens, vocab",
    [(1, 10, 2**26), (3, 4096, 32000), (9, 3, 5), (2, 2048, 128256)],
)
def test_chunks_are_bounded_and_equal(rows, tokens, vocab, platform):
    chunk = logprobs.choose_chunk(rows, tokens, vocab, platform)
    assert 1 <= chunk <= tokens
    limit = logprobs.CHUNK_VALUES[platform]
    assert chunk == 1 or chunk * rows <= 8 or chunk * rows * vocab <= limit
    # The last chunk is filled up by less than one token for each chunk.
    assert -(-tokens // chunk) * chunk - tokens < -(-tokens // chunk)
