# SPDX-License-Identifier: Apache-2.0
"""Chunked log-probabilities and KL equal the dense ones in float64, gradients too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_logprobs import (
    ROWS,
    TOKENS,
    VOCAB,
    arrays,
    assert_close,
    chunks,
    cotangents,
    softmax,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.models import logprobs
from jax_surgery.models.output_head import Head


@functools.partial(jax.jit, static_argnames="chunk")
def found_and_gradients(hidden_BTD, head_DV, targets_BT, weights_BT, chunk):
    """(what is found, gradients of the weighted log p, and of the weighted margin)."""

    def sums(hidden, head):
        found = logprobs.token_logprobs(hidden, Head(head), targets_BT, chunk=chunk)
        values = found.logp_BT, found.margin_BT
        return [(weights_BT * value).sum() for value in values], found

    _, back, found = jax.vjp(sums, hidden_BTD, head_DV, has_aux=True)
    one, zero = jnp.ones(()), jnp.zeros(())
    return found, back([one, zero]), back([zero, one])


@settings(max_examples=12)
@given(chunk=chunks, seed=st.integers(0, 9))
def test_logp_and_margin_equal_the_dense_ones(chunk, seed):
    hidden, head, _, _, targets = arrays(seed)
    logp, p = softmax(hidden @ head)
    onehot = np.eye(VOCAB)[targets]
    at = (logp * onehot).sum(-1)
    at_p = (p * onehot).sum(-1)
    weights = np.random.default_rng(seed).normal(size=targets.shape)
    given = (np.float32(hidden), np.float32(head), targets, np.float32(weights))
    found, *gradients = found_and_gradients(*given, chunk=chunk)
    assert_close(found[:2], (at, at - np.log1p(-at_p)))
    np.testing.assert_array_equal(found.top_BT, logp.argmax(-1) == targets)
    d_logp = onehot - p
    for got, dz in zip(
        gradients, (d_logp, d_logp / (1 - at_p)[..., None]), strict=True
    ):
        assert_close(got, cotangents(weights[..., None] * dz, hidden, head))


@settings(max_examples=8)
@given(chunk=chunks, seed=st.integers(0, 9), count=st.integers(1, 5))
def test_candidates_equal_the_dense_ones(chunk, seed, count):
    hidden, head, _, _, _ = arrays(seed)
    wanted = np.random.default_rng(seed).integers(0, VOCAB, (ROWS, TOKENS, count))
    logp, _ = softmax(hidden @ head)
    got = logprobs.candidate_logprobs(
        jnp.float32(hidden), Head(jnp.float32(head)), jnp.asarray(wanted), chunk=chunk
    )
    assert_close([got], [np.take_along_axis(logp, wanted, -1)])


def test_the_margin_of_a_sure_token_is_exact_and_has_a_gradient():
    """-CE is flat at p = 1; the margin is not."""
    head = Head(jnp.eye(4, dtype=jnp.float32))
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
    tokens *= rows
    chunk = logprobs.choose_chunk(tokens, vocab, platform)
    assert 1 <= chunk <= tokens
    assert chunk <= 8 or chunk * vocab <= logprobs.CHUNK_VALUES[platform]
    # The last chunk is filled up by less than one token for each chunk.
    assert -(-tokens // chunk) * chunk - tokens < -(-tokens // chunk)
