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
def found(hidden, head, targets, active, chunk, seeds=None, pool=None):
    seeds = jnp.zeros(active.shape, jnp.uint32) if seeds is None else seeds
    pool = jnp.arange(VOCAB, dtype=jnp.int32) if pool is None else pool
    of = (targets, active, seeds, pool)
    return mixtures.of_tokens(hidden, Head(head[None]), *of, chunk=chunk)


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
    assert_close(got[:-2], [np.where(active, values, 0) for values in wanted])
    drawn = np.asarray(got.drawn_BTK)
    assert not drawn[~active].any()
    logq = np.take_along_axis(np.log(q), drawn, -1)
    assert_close([got.drawn_logq_BTK], [np.where(active[..., None], logq, 0)])


def test_tokens_are_drawn_from_the_mixture_and_the_pool_alone():
    """Of a pool of one token more than is drawn, the one left out is the likeliest as
    often as drawing without replacement leaves it out."""
    rng = np.random.default_rng(0)
    pool = np.sort(rng.permutation(VOCAB)[: mixtures.DRAWN + 1]).astype(np.int32)
    count = 4000
    hidden = np.tile(rng.normal(size=(1, 1, 2, WIDTH)), (1, count, 1, 1))
    head = rng.normal(size=(WIDTH, VOCAB))
    targets = np.full((1, count), np.setdiff1d(np.arange(VOCAB), pool)[0])
    seeds = np.arange(count, dtype=np.uint32)[None]
    active = np.ones((1, count), bool)
    arrays = (jnp.float32(hidden), jnp.float32(head), targets, active)
    drawn = np.asarray(found(*arrays, 64, seeds, pool).drawn_BTK)[0]
    assert all(len({*row}) == mixtures.DRAWN for row in drawn.tolist())
    left = np.array([np.setdiff1d(pool, row)[0] for row in drawn])
    _, p = softmax(hidden[0, 0, 1] @ head)
    q = p[pool] / p[pool].sum()
    # Draws directly, one after another.
    direct = [
        pool[rng.choice(len(pool), len(pool), replace=False, p=q)[-1]]
        for _ in range(count)
    ]
    share = lambda values: np.array([np.mean(np.asarray(values) == v) for v in pool])
    np.testing.assert_allclose(share(left), share(direct), atol=0.04)


def test_the_token_that_is_asked_about_is_never_drawn():
    rng = np.random.default_rng(1)
    hidden = jnp.float32(rng.normal(size=(1, TOKENS, 2, WIDTH)))
    head = jnp.float32(rng.normal(size=(WIDTH, VOCAB)))
    targets = rng.integers(0, VOCAB, (1, TOKENS))
    drawn = found(hidden, head, targets, np.ones((1, TOKENS), bool), 8).drawn_BTK
    assert not (np.asarray(drawn) == targets[..., None]).any()
