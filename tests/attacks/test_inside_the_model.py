# SPDX-License-Identifier: Apache-2.0
"""Answers that are read from states inside, and weights part of the way back."""

import jax
import numpy as np
import pytest

from jax_surgery.attacks import linear_probe, parse
from jax_surgery.attacks.base import Budget, Target, ignore
from jax_surgery.attacks.linear_probe import Facts
from jax_surgery.attacks.way_back import between
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.models import decoder
from jax_surgery.models.model import Model


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


def facts(rng, known: np.ndarray, count: int, noise: float) -> Facts:
    """States that hold the answer linearly in layer 1 and nothing in layer 0."""
    words, width = known.shape
    answers = rng.integers(0, words, count)
    states = rng.normal(size=(2, count, width)).astype(np.float32)
    states[1] = noise * states[1] + known[answers]
    bags, places = [], []
    for answer in answers:
        others = rng.permutation(np.setdiff1d(np.arange(words), [answer]))[:3]
        options = rng.permutation([answer, *others])
        bags.append(np.eye(words, dtype=np.float32)[options])
        places.append(int(np.argmax(options == answer)))
    return Facts(states, bags, places)


def test_a_probe_reads_what_stands_linearly_in_states_and_nothing_else():
    rng = np.random.default_rng(0)
    known = rng.normal(size=(8, 24)).astype(np.float32)
    fitted, asked = (facts(rng, known, count, 0.5) for count in (120, 200))
    for layer, (low, high) in enumerate([(0.1, 0.4), (0.9, 1.0)]):
        choice, left_out = linear_probe.read(fitted, asked, layer)
        right = float((choice == np.array(asked.answers)).mean())
        assert low <= right <= high and low <= left_out <= high


def test_a_fact_that_is_left_out_is_told_as_by_a_fit_without_it():
    """With one damping, whatever the fit: the formula is that of ridge regression."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 3))
    damping = 0.3
    inverse = np.linalg.inv(x @ x.T + damping * np.eye(9))
    quick = y - inverse @ y / np.diag(inverse)[:, None]
    for i in range(9):
        rest = np.delete(np.arange(9), i)
        gram = x[rest].T @ x[rest] + damping * np.eye(4)
        slow = x[i] @ np.linalg.solve(gram, x[rest].T @ y[rest])
        np.testing.assert_allclose(quick[i], slow, atol=1e-9)


def test_states_are_those_after_each_layer_at_the_end_of_the_prompt(model):
    rows = [{"prompt": f"the number {i} is", "answer": f" {i}"} for i in range(4)]
    records = tuple(parse_record(row, "") for row in rows)
    probe = Probe("g", 32, records=records)
    questions = linear_probe.as_questions(probe, 0)
    assert [q.prompt for q in questions] == [row["prompt"] for row in rows]
    assert all(
        len(q.options) == 4 and q.options[0] == r["answer"]
        for q, r in zip(questions, rows, strict=True)
    )
    found = linear_probe.facts(model, probe, questions)
    ids = [
        model.tokenizer.bos_token_id,
        *model.tokenizer(rows[2]["prompt"])["input_ids"],
    ]
    tokens = np.asarray(ids[-len(ids) :], np.int32)[None]
    if tokens[0, 0] == tokens[0, 1]:
        tokens = tokens[:, 1:]  # the tokenizer writes it itself
    hidden = decoder.forward(model.params, model.config, tokens)
    np.testing.assert_allclose(found.states[-1, 2], hidden[0, -1], atol=1e-5)
    assert len(found.states) == model.config.num_layers
    below = decoder.forward(model.params, model.config, tokens, num_layers=1)
    below = decoder.final_norm(model.params, below, model.config)
    np.testing.assert_allclose(found.states[0, 2], below[0, -1], atol=1e-5)


def test_a_probe_needs_facts_that_are_known(model):
    rows = [{"prompt": f"the number {i} is", "answer": f" {i}"} for i in range(4)]
    probe = Probe("g", 32, records=tuple(parse_record(row, "") for row in rows))
    lacks = parse("linear_probe").lacks(
        Target((), (probe,), 32, known=lambda: (probe,))
    )
    assert "has 4 facts" in lacks and "it needs 20" in lacks
    assert "needs questions" in parse("linear_probe").lacks(Target((), (), 32))


def test_part_of_the_way_is_between_the_two(model):
    before = jax.tree.map(lambda leaf: leaf + 1, model.params)
    for leaf, own in zip(
        jax.tree.leaves(between(model.params, before, 0.25)),
        jax.tree.leaves(model.params),
        strict=True,
    ):
        np.testing.assert_allclose(leaf, own + 0.25, atol=1e-6)


def test_the_model_before_has_the_same_weights(model):
    attack = parse("way_back")
    with pytest.raises(ValueError, match="needs the model before.*config.before"):
        attack(model, Target((), (), 8), Budget(), 0, ignore)
    smaller = model.with_params({"embedder": model.params["embedder"]})
    target = Target((), (), 8, before=lambda: smaller)
    with pytest.raises(ValueError, match="has other weights than the model"):
        attack(model, target, Budget(), 0, ignore)
