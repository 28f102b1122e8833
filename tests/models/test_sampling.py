# SPDX-License-Identifier: Apache-2.0
"""Tokens are drawn from the nucleus, and what is drawn depends on no batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.models import decoder, sampling
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.generate import greedy_generate, sampled_generate
from jax_surgery.models.sampling import Sampling

CONFIG = ModelConfig(61, 16, 24, 2, 4, 4, 4, initializer_range=0.4)


@pytest.fixture(scope="module")
def sampled():
    params = decoder.init_params(CONFIG, 3)
    return functools.partial(sampled_generate, params, CONFIG, eos_id=-1)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_what_sorting_finds(top_p):
    logits_V = 3 * jax.random.normal(jax.random.key(0), (200,))
    p_V = jax.nn.softmax(logits_V)
    every = jnp.tile(p_V, (200, 1))
    kept_V = np.asarray(sampling.in_nucleus(every, jnp.arange(200), top_p))
    order = np.argsort(-np.asarray(p_V))
    mass = np.cumsum(np.asarray(p_V, np.float64)[order])
    count = int(np.searchsorted(mass, top_p)) + 1
    assert set(np.flatnonzero(kept_V)) == set(order[:count])


def test_equal_tokens_all_belong_to_the_nucleus():
    p_BV = jnp.full((7, 7), 1 / 7)
    assert sampling.in_nucleus(p_BV, jnp.arange(7), 0.5).all()


def test_draws_come_as_often_as_their_probability():
    logits_V = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys_B = sampling.row_keys(np.uint32(1), np.arange(4000))
    drawn_B = sampling.draw(keys_B, jnp.tile(logits_V, (4000, 1)), 1.0, 0.9)
    share = np.bincount(drawn_B, minlength=4) / 4000
    wanted = np.array([0.5, 0.3, 0.15, 0]) / 0.95
    assert np.abs(share - wanted).max() < 0.03


def test_large_vocabularies_and_temperatures_are_drawn_from_alike():
    """Over blocks of tokens: a token in three holds all of the mass."""
    words = 3 * sampling.BLOCK + 5
    logits_V = jnp.where(jnp.arange(words) % 3 == 0, 0.0, -50.0).at[words - 2].set(2.0)
    keys_B = sampling.row_keys(np.uint32(1), np.arange(6000))
    drawn_B = np.asarray(sampling.draw(keys_B, jnp.tile(logits_V, (6000, 1)), 2.0, 1.0))
    p_V = np.exp(np.asarray(logits_V, np.float64) / 2)
    p_V /= p_V.sum()
    for part in np.array_split(np.arange(words), 4):
        wanted = p_V[part].sum()
        assert abs(np.isin(drawn_B, part).mean() - wanted) < 0.03
    assert abs((drawn_B == words - 2).mean() - p_V[words - 2]) < 0.01
    assert len(set(drawn_B.tolist())) > 200


def test_a_row_draws_the_same_in_every_batch(sampled):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 61, n).tolist() for n in (3, 9, 5, 8, 4)]
    ask = functools.partial(sampled, prompts, 6)
    found = ask(Sampling(1.0, 0.95, 7), batch_rows=5)
    assert ask(Sampling(1.0, 0.95, 7), batch_rows=2) == found
    assert ask(Sampling(1.0, 0.95, 8), batch_rows=5) != found


def test_samples_of_a_prompt_are_those_of_the_prompt_asked_again(sampled):
    prompts, chosen = [[5, 6, 7], [9, 1]], Sampling(1.0, 0.95, 7)
    told = []
    found = sampled(prompts, 6, chosen, samples=3, watch=told.append)
    again = [prompt for prompt in prompts for _ in range(3)]
    assert sampled(again, 6, chosen) == found
    assert len({tuple(ids) for ids in found[:3]}) > 1
    assert sum(told) == 6


def test_a_narrow_nucleus_is_greedy(sampled):
    prompts = [[5, 6, 7], [9, 1]]
    greedy = greedy_generate(
        decoder.init_params(CONFIG, 3), CONFIG, prompts, 6, eos_id=-1
    )
    assert sampled(prompts, 6, Sampling(1.0, 1e-6, 7)) == greedy


def test_without_prompts_there_are_no_answers(sampled):
    assert sampled([], 6, Sampling()) == []


def test_wrong_numbers_say_what_is_right(sampled):
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        Sampling(temperature=0)
    with pytest.raises(ValueError, match="top_p=0; use more than 0, and 1 at most"):
        Sampling(top_p=0)
    with pytest.raises(ValueError, match="samples=0; ask for 1 or more"):
        sampled([[1]], 4, Sampling(), samples=0)
