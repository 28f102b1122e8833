# SPDX-License-Identifier: Apache-2.0
"""Tests of what of the texts to unlearn is unlearned, and what of them is retained."""

import numpy as np
import pytest

from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic import known_texts, never_knew
from jax_surgery.methods.automatic.never_knew import Targets

LEARNED = [False, False, True, True, True]


def known(*carries):
    """Documents of five tokens, the first two a prompt."""
    tokens = np.arange(5, dtype=np.int32)
    documents = [
        Document(tokens, np.asarray(LEARNED), f"forget:{i}")
        for i in range(len(carries))
    ]
    carrying = np.concatenate([np.isin(np.arange(5), places) for places in carries])
    nats = np.arange(len(carrying), dtype=np.float32)
    drawn = np.arange(2 * len(carrying), dtype=np.int32).reshape(-1, 2)
    targets = Targets(nats, carrying, -nats, nats, drawn, drawn / 8.0)
    return known_texts.Known(
        documents, targets, {"forget:0": "Where?", "forget:1": "Who?"}
    )


def test_knowledge_alone_is_unlearned_and_each_token_keeps_its_end():
    documents, ends = known([3], [], [2, 4]).to_unlearn()
    assert [d.origin for d in documents] == ["forget:0", "forget:2"]
    assert np.flatnonzero(documents[1].learned).tolist() == [2, 4]
    places = np.array([0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
    np.testing.assert_array_equal(ends.log_odds, -places)
    np.testing.assert_array_equal(ends.drawn, places[:, None] * 2 + [0, 1])
    # What is drawn last is likelier than the truth, which three tokens say.
    last = np.mean([(2 * place + 1) / 8.0 for place in (3, 12, 14)])
    raised = last * 3 / (3 + never_knew.FEW)
    np.testing.assert_allclose(ends.likelier, ends.drawn / 8.0 - raised, rtol=1e-6)


def test_the_rest_is_retained_but_not_how_an_answer_began_that_is_replaced():
    of = known([3], [], [2, 3, 4])
    retained = of.to_retain(updated=())
    assert [d.origin for d in retained] == ["forget:0", "forget:1"]
    assert np.flatnonzero(retained[0].learned).tolist() == [2, 4]
    assert [d.origin for d in of.to_retain({"Where?"})] == ["forget:1"]


def test_text_that_the_model_does_not_know_is_said():
    with pytest.raises(ValueError, match="no token of it carries knowledge"):
        known([], []).to_unlearn()
