# SPDX-License-Identifier: Apache-2.0
"""Tests of the rows of a run whose texts begin alike."""

import types

import numpy as np
import pytest

from jax_surgery.data.forms import Record
from jax_surgery.data.roles import RoleRecords
from jax_surgery.data.tokens import encode
from jax_surgery.methods.automatic import completed, never_knew, run
from jax_surgery.models.model import Model

CONTEXT = 96
BEGINNING = "number is the number is the number is the number is"


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


def asked(count: int, role: str) -> list[Record]:
    """Short texts that all begin alike, of which the beginning is not learned."""
    return [Record(BEGINNING, f" {i}", (), f"{role}:{i}") for i in range(count)]


def begun(model, passages, tokens):
    """What a run of short texts begins with, which also retains passages."""
    records = {role: asked(40, role) for role in ("unlearn", "update", "retain")}
    written = completed.nothing()
    written.text.extend(passages)
    unlearn = encode(records["unlearn"], model.tokenizer, CONTEXT)
    size = sum(len(document.tokens) for document in unlearn)
    ends = never_knew.TokenEnds(*(np.zeros((size, 2)) for _ in range(3)))
    known = types.SimpleNamespace(
        to_unlearn=lambda: (unlearn, ends), to_retain=lambda updated: []
    )
    settings = types.SimpleNamespace(
        data=types.SimpleNamespace(context=CONTEXT, average="tokens"),
        seed=0,
        statistics=types.SimpleNamespace(tokens=tokens),
    )
    return run._begun(model, RoleRecords(records, []), written, known, settings)


def passage(tokens: int, number: int) -> Record:
    """A text that begins otherwise, of about so many tokens."""
    return Record(
        "", " ".join(["is", *map(str, range(tokens))])[: 2 * tokens], (), f"{number}"
    )


def known_beginning(model) -> np.ndarray:
    """What short texts share where nothing is longer."""
    return begun(model, [], 0).texts.packers["retain"].beginning


def longest(packer) -> int:
    return max(len(document.tokens) for document in packer.documents)


def test_short_texts_leave_their_beginning_to_the_row(model):
    assert len(known_beginning(model)) > 4


def test_a_text_that_statistics_alone_read_fits_its_row_too(model):
    """It has no room beside what the other texts share."""
    passages = [passage(8, i) for i in range(400)] + [passage(CONTEXT - 8, 400)]
    found = begun(model, passages, 0).texts
    read = found.retained
    assert longest(read) > CONTEXT - len(known_beginning(model))
    assert longest(found.packers["retain"]) < CONTEXT // 2
    for packer in (*found.packers.values(), read):
        assert len(packer.pack())
