# SPDX-License-Identifier: Apache-2.0
"""Right tokens of answers, against all logits of each document alone."""

import dataclasses

import jax
import numpy as np
import pytest
from plain_settings import plain_compute

from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import Document
from jax_surgery.metrics import answer_accuracy, exact_match, text
from jax_surgery.metrics.tokens import TextScores, score_texts, score_tokens
from jax_surgery.models import decoder, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model

CONFIG = ModelConfig(32, 16, 24, 2, 2, 1, 8, initializer_range=0.3)
COMPUTE = plain_compute()
LONGEST = 9


@pytest.fixture(scope="module")
def params():
    return decoder.init_params(CONFIG, 0)


def scored(params, documents, context) -> TextScores:
    probe = Probe("all", context, documents=tuple(documents))
    return score_texts(Model(params, CONFIG, None, COMPUTE), probe)


@jax.jit
def logits_of(params, rows):
    hidden = decoder.forward(params, CONFIG, rows, compute=COMPUTE)
    return hidden @ output_head.kernel(params)


def logp_of(params, tokens) -> np.ndarray:
    """log p of every next token, float64 [n, V]; alone in a row, padded behind."""
    row = np.zeros((1, LONGEST), np.int32)
    row[0, : len(tokens)] = tokens
    logits = np.asarray(logits_of(params, row)[0], np.float64)[: len(tokens)]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def documents(params) -> list[Document]:
    """Prompts with random answers and, every third, what the model would answer."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(15):
        prompt, answer = rng.integers(2, 5), rng.integers(1, LONGEST - 4)
        tokens = rng.integers(0, 32, prompt + answer).astype(np.int32)
        if number % 3 == 0:
            for i in range(prompt, len(tokens)):
                tokens[i] = logp_of(params, tokens[:i])[-1].argmax()
        found.append(Document(tokens, np.arange(len(tokens)) >= prompt, ""))
    # A text of which all is learned: its first token nothing predicts.
    text = rng.integers(0, 32, 6).astype(np.int32)
    return [*found, Document(text, np.ones(6, bool), "")]


def test_scores_are_those_of_each_document_alone(params, documents):
    scores = scored(params, documents, 16)
    for i, document in enumerate(documents):
        logp = logp_of(params, document.tokens)[:-1]
        asked, learned = document.tokens[1:], document.learned[1:]
        right = (logp.argmax(-1) == asked)[learned].sum()
        wanted = logp[np.arange(len(asked)), asked][learned].sum()
        assert scores.right[i] == right and scores.tokens[i] == learned.sum()
        assert scores.logp[i] == pytest.approx(wanted, rel=1e-5)
    exact = scores.right == scores.tokens
    assert exact[:15:3].all() and 5 <= exact.sum() < len(documents)


@pytest.mark.parametrize("context", [LONGEST, 40])
def test_packing_does_not_matter(params, documents, context):
    one = scored(params, documents, 16)
    order = np.random.default_rng(1).permutation(len(documents))
    shuffled = [documents[i] for i in order]
    other = scored(params, shuffled, context)
    np.testing.assert_array_equal(one.right[order], other.right)
    np.testing.assert_array_equal(one.tokens[order], other.tokens)
    np.testing.assert_allclose(one.logp[order], other.logp, rtol=1e-5)


def test_more_rows_than_a_batch_are_all_scored(params, documents):
    many = [documents[i % len(documents)] for i in range(5 * len(documents))]
    found = scored(params, many, LONGEST)
    one = scored(params, documents, LONGEST)
    np.testing.assert_array_equal(found.right, np.tile(one.right, 5))
    np.testing.assert_allclose(found.logp, np.tile(one.logp, 5), rtol=1e-5)


def log_odds_of(params, document) -> np.ndarray:
    """z_y - logsumexp of all others, of each token but the first, nats."""
    logits = logp_of(params, document.tokens)[:-1]
    place = np.arange(len(logits)), document.tokens[1:]
    others = logits.copy()
    others[place] = -np.inf
    return logits[place] - np.log(np.exp(others).sum(-1))


@pytest.mark.parametrize("context, copies", [(16, 1), (LONGEST, 5)])
def test_margins_are_log_odds_of_each_token(params, documents, context, copies):
    many = documents * copies
    packer = Packer(many, context, "tokens")
    found = score_tokens(Model(params, CONFIG, None, COMPUTE), packer, "margin")[
        "margin"
    ]
    assert len(found) == sum(len(d.tokens) for d in many)
    ends = np.cumsum([len(d.tokens) for d in many])
    wanted = [log_odds_of(params, d) for d in documents]
    for i, (document, own) in enumerate(zip(many, wanted * copies, strict=True)):
        there = found[ends[i] - len(document.tokens) + 1 : ends[i]]
        # Tokens that are read but not learned have margins too.
        np.testing.assert_allclose(there, own, rtol=1e-4, atol=1e-4)
    assert np.ptp(np.concatenate(wanted)) > 2


def test_shares_are_of_tokens_and_of_documents():
    counts = np.array([3, 0, 2]), np.array([3, 1, 4])
    scores, probe = TextScores(*counts, np.zeros(3), ("a", "b", "c")), Probe("", 8)
    assert answer_accuracy.METRIC.estimate(scores, probe).value == 5 / 8
    assert exact_match.METRIC.estimate(scores, probe).value == 1 / 3


def test_a_document_longer_than_the_context_is_an_error(params, documents):
    long = dataclasses.replace(
        documents[0], tokens=np.zeros(17, np.int32), learned=np.ones(17, bool)
    )
    with pytest.raises(ValueError, match="17 tokens does not fit data.context=16"):
        scored(params, [long], 16)


def test_of_pairs_the_text_alone_is_known(params, documents):
    """Not the alternative that is to take its place."""
    model = Model(params, CONFIG, None, COMPUTE)
    pairs = [d for own in documents for d in (own, documents[1])]
    found = text.known(model, Packer(pairs, 2 * LONGEST, "sequences", group=2))
    alone = text.known(model, Packer(documents, 2 * LONGEST, "sequences"))
    assert list(found) == list(alone)
    for name, value in alone.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_of_a_long_role_the_first_rows_are_read(params, documents, monkeypatch):
    monkeypatch.setattr(text, "ROLE_ROWS", 2)
    model = Model(params, CONFIG, None, COMPUTE)
    packer = Packer(documents, LONGEST, "tokens")
    rows = packer.pack().select(slice(2))
    found = text.known(model, packer)
    assert found["tokens"] == (rows.weights_BT > 0).sum()
