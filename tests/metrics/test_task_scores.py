# SPDX-License-Identifier: Apache-2.0
"""Scores of tasks, against every token's log-probability alone; what of them is gone."""

import functools
import math

import jax
import numpy as np
import pytest
from plain_settings import plain_compute

from jax_surgery.benchmarks.tasks import of_documents
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import Document
from jax_surgery.metrics import task_scores
from jax_surgery.metrics.intervals import (
    bootstrap_ratio,
    clustered_share,
    wilson_interval,
)
from jax_surgery.metrics.task_scores import Score, drop, removed
from jax_surgery.models import decoder, output_head
from jax_surgery.models.model import Model

COMPUTE = plain_compute()
CONTEXT = 24


def of(value, chance=0.2):
    return Score(value, (0.0, 1.0), 10, value, chance)


@pytest.mark.parametrize(
    "after, gone",
    [(0.2, 1.0), (0.8, 0.0), (0.5, 0.5), (0.1, 7 / 6), (0.9, -1 / 6)],
)
def test_removed_is_the_share_of_what_is_known_beyond_chance(after, gone):
    assert removed(of(0.8), of(after)) == pytest.approx(gone)


@pytest.mark.parametrize("before", [0.2, 0.1])
def test_of_what_was_not_known_nothing_is_removed(before):
    assert math.isnan(removed(of(before), of(0.0)))


def test_drop_is_the_share_of_the_score_and_knows_no_chance():
    assert drop(of(0.8), of(0.6)) == pytest.approx(0.25)
    assert drop(of(0.8), of(0.8)) == 0
    assert drop(of(0.8), of(1.0)) == pytest.approx(-0.25)
    assert drop(of(0.8), of(0.0)) == 1
    assert drop(of(0.0), of(0.5)) == 0  # nothing to lose


@pytest.fixture(scope="module")
def documents(tiny_model) -> list[Document]:
    """Random prompts and answers, every third answered as the model would."""
    rng, vocab = np.random.default_rng(0), tiny_model.config.vocab_size
    found = []
    for number in range(12):
        prompt, answer = rng.integers(2, 6), rng.integers(1, 5)
        tokens = rng.integers(0, vocab, prompt + answer).astype(np.int32)
        if number % 3 == 0:
            for i in range(prompt, len(tokens)):
                tokens[i] = logp_of(tiny_model, tokens)[i - 1].argmax()
        found.append(Document(tokens, np.arange(len(tokens)) >= prompt, ""))
    return found


@functools.partial(jax.jit, static_argnums=1)
def logits_of(params, config, rows):
    hidden = decoder.forward(params, config, rows, compute=COMPUTE)
    return hidden @ output_head.kernel(params)


def logp_of(model, tokens) -> np.ndarray:
    """log p of all next tokens, float64 [n, V]; alone in a row, padded behind."""
    row = np.zeros((1, CONTEXT), np.int32)
    row[0, : len(tokens)] = tokens
    logits = logits_of(model.params, model.config, row)[0, : len(tokens)]
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def exactly(model, documents):
    """Of each document, of its learned tokens: right ones, log p's sum, how many."""
    found = []
    for document in documents:
        logp, asked = logp_of(model, document.tokens)[:-1], document.tokens[1:]
        learned = document.learned[1:]
        right = (logp.argmax(-1) == asked)[learned].sum()
        own = logp[np.arange(len(asked)), asked][learned].sum()
        found.append((right, own, learned.sum()))
    return np.array(found).T


def scored(model, probe, limit=None):
    given = Model(model.params, model.config, model.tokenizer, COMPUTE)
    return task_scores.scored(given, probe, limit)[0]


@pytest.mark.parametrize("limit", [None, 5])
def test_accuracy_is_of_the_tested_answers_tokens(tiny_model, documents, limit):
    text = of_documents(Group("a", "retain", "", chance=0.125), documents, CONTEXT)
    found = scored(tiny_model, text.probe, limit)
    right, _, count = exactly(tiny_model, documents[:limit])
    assert found.value == right.sum() / count.sum() and 0 < found.value < 1
    assert found.n == len(documents[:limit])
    assert found.exact == (right == count).mean() and found.exact != found.value
    assert found.interval == clustered_share(right, count)
    assert found.chance == 0.125


@pytest.mark.parametrize("limit", [None, 5])
def test_likelihood_is_the_geometric_mean_over_tokens(tiny_model, documents, limit):
    task = Group("a", "retain", "", scorer="likelihood", chance=0.001)
    found = scored(tiny_model, of_documents(task, documents, CONTEXT).probe, limit)
    right, logp, count = exactly(tiny_model, documents[:limit])
    assert found.value == pytest.approx(math.exp(logp.sum() / count.sum()), rel=1e-5)
    assert (found.n, found.chance) == (len(documents[:limit]), 0.001)
    assert found.exact == (right == count).mean()
    low, high = found.interval
    assert 0 < low < found.value < high < 1


def test_an_interval_of_likelihood_is_of_the_value_itself():
    """Of sums and counts that belong together: a mean of texts' means is another."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 20, 300)
    sums = -0.2 * counts - 0.5 * counts**2 / 20
    low, high = bootstrap_ratio(sums, counts)
    value = sums.sum() / counts.sum()
    assert low < value < high < (sums / counts).mean()
    # Of a ratio (delta method): the residuals' deviation over the mean count.
    error = np.std(sums - value * counts) / counts.mean() / math.sqrt(len(counts))
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, rel=0.1)
    assert bootstrap_ratio(sums, counts) == (low, high)


def test_choice_is_the_share_of_questions_answered_right(tiny_model):
    prompts = [f"the number {i} is" for i in range(9)]
    options = (" 8", " 11", " is is", " number")
    best = [
        max(range(4), key=lambda i: option_logp(tiny_model, prompt, options[i]))
        for prompt in prompts
    ]
    # Six of nine are asked for what the model finds most likely.
    wanted = [b if i % 3 else (b + 1) % 4 for i, b in enumerate(best)]
    questions = tuple(
        Question(str(i), "a", "trained", prompt, options, answer)
        for i, (prompt, answer) in enumerate(zip(prompts, wanted, strict=True))
    )
    probe = Probe("a", CONTEXT, questions, metrics=("multiple_choice",))
    found = scored(tiny_model, probe)
    assert (found.value, found.exact, found.n) == (6 / 9, 6 / 9, 9)
    assert found.interval == wilson_interval(6, 9) and found.chance == 1 / 4
    first = scored(tiny_model, probe, 4)
    assert (first.value, first.n) == (2 / 4, 4)


def option_logp(model, prompt, option) -> float:
    """log p of an option's tokens after the prompt."""
    encode = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]
    before, after = encode(prompt), encode(prompt + option)
    assert after[: len(before)] == before
    tokens = np.array([model.tokenizer.bos_token_id, *after])
    logp, start = logp_of(model, tokens), len(before)
    return sum(logp[i, tokens[i + 1]] for i in range(start, len(after)))
