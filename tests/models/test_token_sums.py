# SPDX-License-Identifier: Apache-2.0
"""Sums over tokens and their gradients equal the dense ones in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense_logprobs import (
    DIRECTIONS,
    ROWS,
    TOKENS,
    arrays,
    assert_close,
    capped,
    chunks,
    cotangents,
    softmax,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_surgery.models import logprobs
from jax_surgery.models.output_head import Head
from jax_surgery.models.token_sums import LOSS, Part, token_sums

F32 = functools.partial(jnp.asarray, dtype=jnp.float32)


def weights_of(seed: int, share: float):
    """Weights of either sign of a share of the tokens, 0 of the others."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(ROWS, TOKENS))
    return np.where(rng.random(weights.shape) < share, weights, 0.0)


def value_and_gradients(terms, hidden, heads, others, weights, softcap=None, **options):
    """The sums, and gradients of 3 times the loss by hidden states and the first head."""

    def total(hidden, head):
        more = [Head(F32(h)[None], softcap) for h in heads[1:]]
        active = jnp.asarray(weights != 0)
        with_weights = [jnp.asarray(a) for a in (*others, F32(weights))]
        part = Part(terms, hidden, with_weights, active, more)
        sums = token_sums([part], Head(head[None], softcap), **options)
        return 3 * sums[LOSS], sums

    gradients = jax.grad(total, argnums=(0, 1), has_aux=True)
    return gradients(F32(hidden), F32(heads[0]))


@settings(max_examples=12)
@given(
    chunk=chunks | st.none(),
    seed=st.integers(0, 9),
    direction=st.sampled_from(DIRECTIONS),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    tied=st.booleans(),
    softcap=st.sampled_from([None, 1.5]),
)
def test_kl_equals_the_dense_one(chunk, seed, direction, share, tied, softcap):
    hidden, head, other, other_head, _ = arrays(seed)
    logits, slope = capped(hidden @ head, softcap)
    logp, p = softmax(logits)
    logq, q = softmax(capped(other @ other_head, softcap)[0])
    if direction == "model_to_reference":
        kl = (p * (logp - logq)).sum(-1)
        dz = p * (logp - logq - kl[..., None])
    else:
        kl = (q * (logq - logp)).sum(-1)
        dz = p - q
    weights = weights_of(seed, share)

    def terms(heads, hidden_CD, reference_CD, weights_C):
        kl_C = logprobs.divergence(heads, hidden_CD, reference_CD, direction=direction)
        return {LOSS: (weights_C * kl_C).sum(), "tokens": (weights_C != 0).sum() * 1.0}

    gradients, sums = value_and_gradients(
        terms,
        hidden,
        [head, other_head],
        [F32(other)],
        weights,
        softcap,
        chunk=chunk,
        tied=tied,
    )
    assert_close([sums[LOSS]], [(weights * kl).sum()])
    assert sums["tokens"] == np.count_nonzero(weights)
    dz *= 3 * weights[..., None] * slope
    assert_close(gradients, cotangents(dz, hidden, head))


def log_probability(heads, hidden_CD, targets_C, weights_C):
    (head,) = heads
    found = logprobs.of_targets(head, hidden_CD, targets_C)
    return {LOSS: (weights_C * found.logp_BT).sum()}


@pytest.mark.parametrize("chunk, softcap", [(1, None), (4, 1.5), (None, None)])
def test_log_probabilities_equal_the_dense_ones(chunk, softcap):
    hidden, head, _, _, targets = arrays(1)
    logits, slope = capped(hidden @ head, softcap)
    logp, p = softmax(logits)
    onehot = np.eye(head.shape[1])[targets]
    weights = weights_of(1, 0.5)
    gradients, sums = value_and_gradients(
        log_probability, hidden, [head], [targets], weights, softcap, chunk=chunk
    )
    assert_close([sums[LOSS]], [(weights * (logp * onehot).sum(-1)).sum()])
    dz = 3 * weights[..., None] * (onehot - p) * slope
    assert_close(gradients, cotangents(dz, hidden, head))


@pytest.mark.parametrize("tied", [False, True])
def test_parts_add_up(tied):
    """Two parts at once give the sums and gradients of each alone, added."""
    hidden, head, other, other_head, targets = (jnp.asarray(a) for a in arrays(2))
    weights = [F32(weights_of(seed, 0.6)) for seed in (3, 4)]

    def kept(heads, hidden_CD, reference_CD, weights_C):
        kl = logprobs.divergence(
            heads, hidden_CD, reference_CD, direction=DIRECTIONS[0]
        )
        return {LOSS: (weights_C * kl).sum(), "kl": (weights_C * kl).sum()}

    def parts(hidden):
        return [
            Part(log_probability, hidden, [targets, weights[0]], weights[0] != 0),
            Part(
                kept,
                hidden,
                [F32(other), weights[1]],
                weights[1] != 0,
                [Head(F32(other_head)[None])],
            ),
        ]

    def total(hidden, head, which):
        chosen = [parts(hidden)[i] for i in which]
        sums = token_sums(chosen, Head(head[None]), tied=tied, chunk=5)
        return sums[LOSS], sums

    gradients = jax.grad(total, argnums=(0, 1), has_aux=True)
    both, one, two = (
        gradients(F32(hidden), F32(head), which) for which in ([0, 1], [0], [1])
    )
    assert_close(both[0], jax.tree.map(jnp.add, one[0], two[0]))
    assert float(both[1][LOSS]) == pytest.approx(float(one[1][LOSS] + two[1][LOSS]))
    assert both[1]["kl"] == two[1]["kl"]


def test_only_the_chunks_of_active_tokens_run():
    """5 of 18 tokens are active: 2 chunks of 4 run, and not 5."""
    hidden, head, _, _, targets = arrays(0)
    weights = np.zeros((ROWS, TOKENS))
    weights[0, 3:6] = weights[1, 7:] = 1

    def counted(heads, hidden_CD, targets_C, weights_C):
        sums = log_probability(heads, hidden_CD, targets_C, weights_C)
        return sums | {"chunks": jnp.float32(1)}

    _, sums = value_and_gradients(counted, hidden, [head], [targets], weights, chunk=4)
    assert sums["chunks"] == 2
    # Without a derivative the same.
    others = [jnp.asarray(targets), F32(weights)]
    part = Part(counted, F32(hidden), others, jnp.asarray(weights != 0))
    plain = jax.jit(lambda: token_sums([part], Head(F32(head)[None]), chunk=4))()
    assert plain["chunks"] == 2
    assert plain[LOSS] == pytest.approx(float(sums[LOSS]), rel=1e-6)


def test_a_head_and_a_reference_that_do_not_move_get_no_gradient():
    hidden, head, other, other_head, _ = (F32(a) for a in arrays(0))
    ones = jnp.ones((ROWS, TOKENS))

    def total(hidden, head, other, other_head):
        def terms(heads, hidden_CD, reference_CD, weights_C):
            kl = logprobs.divergence(
                heads, hidden_CD, reference_CD, direction=DIRECTIONS[0]
            )
            return {LOSS: (weights_C * kl).sum()}

        part = Part(terms, hidden, [other, ones], ones > 0, [Head(other_head[None])])
        return token_sums([part], Head(head[None]))[LOSS]

    gradients = jax.grad(total, argnums=(0, 2, 3))(hidden, head, other, other_head)
    assert gradients[0].any()
    assert not gradients[1].any() and not gradients[2].any()
    # The head's own gradient takes a product; frozen, none is made.
    frozen = jax.jit(jax.grad(total)).lower(hidden, head, other, other_head)
    moving = jax.jit(jax.grad(total, argnums=(0, 1)))
    moving = moving.lower(hidden, head, other, other_head)
    products = [text.as_text().count("dot_general") for text in (frozen, moving)]
    assert products[1] == products[0] + 1
