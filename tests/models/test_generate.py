# SPDX-License-Identifier: Apache-2.0
"""Greedy generation with a cache equals the uncached forward, token by token."""

import dataclasses

import architecture_cases as cases
import numpy as np
import pytest

from jax_surgery.models import decoder, generate
from jax_surgery.models.config import ModelConfig, RopeScaling
from jax_surgery.models.generate import greedy_generate

CONFIGS = {
    "mha": ModelConfig(61, 16, 24, 2, 4, 4, 4, initializer_range=0.4),
    "gqa, tied, llama3": ModelConfig(
        61,
        16,
        24,
        2,
        4,
        2,
        4,
        rope_theta=500.0,
        rope_scaling=RopeScaling(4.0, 1.0, 4.0, 16),
        tie_embeddings=True,
        initializer_range=0.4,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_uncached(name):
    config = CONFIGS[name]
    params = decoder.init_params(config, 3)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 61, n).tolist() for n in (1, 5, 9, 33)]
    got = greedy_generate(params, config, prompts, 7, eos_id=-1, batch_rows=3)
    assert got == cases.uncached(params, config, prompts, 7)
    assert any(len(set(answer)) > 1 for answer in got)


@pytest.mark.parametrize("window", [0, 12])
def test_what_all_prompts_begin_with_is_read_once(window):
    """Like a chat template's system message; nothing of the answers depends on it."""
    config = CONFIGS["gqa, tied, llama3"]
    if window:
        config = dataclasses.replace(config, windows=(window, 0))
    params = decoder.init_params(config, 3)
    rng = np.random.default_rng(1)
    start = rng.integers(0, 61, 11).tolist()
    prompts = [[*start, *rng.integers(0, 61, n).tolist()] for n in (1, 4, 2, 7, 30)]
    got = greedy_generate(params, config, prompts, 7, eos_id=-1, batch_rows=3)
    assert got == cases.uncached(params, config, prompts, 7)
    assert generate._shared_start(prompts, config) == start
    # A prompt that is the start of all others keeps a token of its own.
    assert generate._shared_start([*prompts, start], config) == start[:-1]
    assert not generate._shared_start([start[:5], start], config)
    assert not generate._shared_start(prompts[:1], config)


def test_an_answer_ends_before_its_stop_token():
    config = CONFIGS["mha"]
    params = decoder.init_params(config, 3)
    full = greedy_generate(params, config, [[5, 6]], 8, eos_id=-1)[0]
    stop = full[3]
    got = greedy_generate(params, config, [[5, 6], [7]], 8, eos_id=stop)
    assert got[0] == full[: full.index(stop)]


def test_bad_requests_are_named():
    config = CONFIGS["mha"]
    params = decoder.init_params(config, 3)
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        greedy_generate(params, config, [[1], []], 4)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        greedy_generate(params, config, [[1]], 0)
