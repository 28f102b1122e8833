# SPDX-License-Identifier: Apache-2.0
"""Greedy generation with a cache equals the uncached forward, token by token."""

import dataclasses

import architecture_cases as cases
import numpy as np
import pytest

from jax_surgery.models import decoder, decoding, generate
from jax_surgery.models.config import ModelConfig, RopeScaling
from jax_surgery.models.generate import greedy_generate, sampled_generate
from jax_surgery.models.sampling import Sampling

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


@pytest.mark.parametrize("samples", [1, 2])
def test_answers_that_have_ended_are_left_out(samples, monkeypatch):
    """Whenever rows are looked at, what is written stays as it is; few rows remain."""
    config = CONFIGS["gqa, tied, llama3"]
    params = decoder.init_params(config, 3)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 61, n).tolist() for n in (4, 9, 2, 30, 7, 3, 12, 5)]

    def written(segment: int, eos_id):
        monkeypatch.setattr(decoding, "SEGMENT", segment)
        if samples == 1:
            return greedy_generate(params, config, prompts, 12, eos_id=eos_id)
        drawn = Sampling(temperature=1.0, top_p=0.9, seed=4)
        return sampled_generate(
            params, config, prompts, 12, drawn, samples=samples, eos_id=eos_id
        )

    whole = written(12, -1)
    assert written(3, -1) == whole
    # Stops that end the answers at different places.
    stops = [answer[i % 12] for i, answer in enumerate(whole) if i % 2]
    sizes, go_on = [], decoding.go_on

    def counted(params, config, state, *given):
        sizes.append(len(state.token_B))
        return go_on(params, config, state, *given)

    monkeypatch.setattr(decoding, "go_on", counted)
    found = written(3, stops)
    for answer, all_of_it in zip(found, whole, strict=True):
        ends = [i for i, token in enumerate(all_of_it) if token in stops]
        assert answer == all_of_it[: ends[0] if ends else None]
    assert len({len(answer) for answer in found}) > 2
    assert sizes[0] > sizes[-1]


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
