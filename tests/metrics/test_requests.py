# SPDX-License-Identifier: Apache-2.0
"""Requests of lm-evaluation-harness on tokens, which need no harness."""

import numpy as np
import pytest
from architecture_cases import logits_alone

from jax_surgery.metrics import requests
from jax_surgery.models.generate import greedy_generate
from jax_surgery.models.model import Model
from jax_surgery.models.sampling import Sampling

CONTEXT = 24


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


def alone(model, given, following) -> tuple[float, bool]:
    """A request by itself, from all logits in float64, as the harness defines it."""
    read = [*given, *following][-(CONTEXT + 1) :]
    logits = logits_alone(model.params, model.config, read[:-1])
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = logp[-len(following) :]
    likely = own.argmax(-1) == np.asarray(following)
    return own[np.arange(len(following)), following].sum(), bool(likely.all())


def test_continuations_are_scored_as_each_alone(model):
    rng = np.random.default_rng(0)
    draw = lambda n: rng.integers(3, model.config.vocab_size, n).tolist()
    given = draw(7)
    best = greedy_generate(model.params, model.config, [given], 3, eos_id=-1)[0]
    pairs = [
        # A question with its letters, which is read once, in any order.
        *[(given, [letter]) for letter in (5, 6, 7)],
        (given, best),
        (given, best[:1]),
        (draw(1), draw(3)),
        (draw(CONTEXT), draw(4)),  # the first of what is given is left out
        (draw(40), draw(CONTEXT)),
        (given, [6]),  # twice
    ]
    found = requests.score_continuations(model, pairs, CONTEXT)
    wanted = [alone(model, *pair) for pair in pairs]
    np.testing.assert_allclose([f[0] for f in found], [w[0] for w in wanted], rtol=1e-4)
    assert [f[1] for f in found] == [w[1] for w in wanted]
    assert found[3][1] and found[4][1] and not all(f[1] for f in found)
    assert found[1] == found[8]
    assert requests.score_continuations(model, [], CONTEXT) == []


def test_texts_stand_in_rows_of_their_length(model, monkeypatch):
    """A long text makes the rows of short ones no longer."""
    widths, packed = [], requests.Packer

    def spy(documents, context, average):
        widths.append(context)
        return packed(documents, context, average)

    monkeypatch.setattr(requests, "Packer", spy)
    monkeypatch.setattr(requests, "LEAST_ROW", 8)
    pairs = [([3] * size, [4]) for size in (2, 5, 8, 20)]
    found = requests.score_continuations(model, pairs, CONTEXT)
    assert widths == [8, 32]
    wanted = [alone(model, *pair)[0] for pair in pairs]
    np.testing.assert_allclose([f[0] for f in found], wanted, rtol=1e-4)


@pytest.mark.parametrize(
    "pair, message",
    [
        (([], [3]), "request 1 gives 0 tokens and asks for 1"),
        (([3], []), "gives 1 tokens and asks for 0"),
        (([3], [4] * 25), "from 1 to config.max_length=24 asked for"),
    ],
)
def test_what_cannot_be_scored_is_named(model, pair, message):
    with pytest.raises(ValueError, match=message):
        requests.score_continuations(model, [([3], [4]), pair], CONTEXT)


def test_a_reply_that_has_ended_is_not_gone_on_with(model, monkeypatch):
    monkeypatch.setattr(requests, "FIRST_TOKENS", 4)
    prompts, asked = [[3, 4, 5], [6, 7], [8]], []
    whole = greedy_generate(model.params, model.config, prompts, 12, eos_id=model.stops)

    def spy(params, config, given, count, **how):
        asked.append((len(given), count))
        return greedy_generate(params, config, given, count, **how)

    monkeypatch.setattr(requests, "greedy_generate", spy)
    never = requests.write_until(model, prompts, 12, lambda ids: False)
    assert never == whole and [count for _, count in asked] == [4, 4, 4]
    asked.clear()
    stop = lambda ids: ids[:2] == whole[0][:2]
    found = requests.write_until(model, prompts, 12, stop)
    assert found[0] == whole[0][:4]
    others = [i for i in range(3) if not stop(whole[i])]
    assert [found[i] for i in others] == [whole[i] for i in others]
    assert asked[1][0] <= len(others)


def test_drawn_replies_are_of_the_seed(model):
    draw = lambda seed: requests.write_until(
        model, [[3, 4]] * 2, 6, lambda ids: False, Sampling(2.0, 1.0, seed)
    )
    assert draw(0) == draw(0) != draw(1)
