# SPDX-License-Identifier: Apache-2.0
"""Mixtures of predictions, chunk by chunk, against dense ones in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from dense_logprobs import ROWS, TOKENS, VOCAB, WIDTH, assert_close, chunks, softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.models import mixtures
from jax_surgery.models.output_head import Head

MEMBERS = 3


@functools.partial(jax.jit, static_argnames="chunk")
def found(hidden, head, targets, active, chunk):
    return mixtures.of_tokens(hidden, Head(head[None]), targets, active, chunk=chunk)


@settings(max_examples=10)
@given(chunk=chunks, seed=st.integers(0, 9), share=st.sampled_from([0.0, 0.4, 1.0]))
def test_values_equal_the_dense_ones_and_are_0_where_nothing_is_asked(
    chunk, seed, share
):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(ROWS, TOKENS, 1 + MEMBERS, WIDTH))
    head = rng.normal(size=(WIDTH, VOCAB))
    targets = rng.integers(0, VOCAB, (ROWS, TOKENS))
    active = rng.random((ROWS, TOKENS)) < share
    got = found(jnp.float32(hidden), jnp.float32(head), targets, active, chunk=chunk)
    logp, p = softmax(hidden @ head)
    q = p[:, :, 1:].mean(2)
    at = lambda values: np.take_along_axis(values, targets[..., None], -1)[..., 0]
    others = np.where(np.eye(VOCAB)[targets] > 0, 0, q)
    wanted = (
        (q * (np.log(q) - logp[:, :, 0])).sum(-1),
        np.log(at(q)),
        np.log(others.sum(-1)),
        np.log(others.max(-1)),
        at(logp[:, :, 0]),
        at(logp[:, :, 0]) - np.log(1 - at(p[:, :, 0])),
    )
    assert_close(got, [np.where(active, values, 0) for values in wanted])
