# SPDX-License-Identifier: Apache-2.0
"""Pairs: a text and its alternative lie side by side, and refusals are said."""

import numpy as np
import pytest

from jax_surgery.data.bpe import train_bpe
from jax_surgery.data.forms import parse_record
from jax_surgery.data.packing import Packer
from jax_surgery.data.pairs import REFUSALS, alternatives, encode_pairs
from jax_surgery.data.stream import RoleStream
from jax_surgery.data.tokens import Document


def record(**fields):
    return parse_record(fields, "here:1")


ASKED = [
    record(question=f"what is {i}?", answer=f"it is {i * i}", alternative="unknown")
    for i in range(7)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([r.text for r in ASKED], 300)


def test_every_alternative_follows_its_text_in_the_same_row(tokenizer):
    packer = Packer(encode_pairs(ASKED, tokenizer, 64, 0), 64, "sequences", group=2)
    rows = packer.pack(3)
    assert packer.num_units == 7 and rows.segment_ids_BT.max(axis=1).sum() == 14
    number_of = np.repeat(np.arange(14), [len(d.tokens) for d in packer.documents])
    for row in range(len(rows)):
        segments, index = rows.segment_ids_BT[row], rows.token_index_BT[row]
        documents = [
            number_of[index[segments == s][0]] for s in range(1, segments.max() + 1)
        ]
        assert len(documents) % 2 == 0
        for own, other in zip(documents[0::2], documents[1::2], strict=True):
            assert own % 2 == 0 and other == own + 1
        for s in range(1, segments.max() + 1):
            at = segments == s
            np.testing.assert_array_equal(
                rows.positions_BT[row][at], np.arange(at.sum())
            )
    assert not rows.positions_BT[rows.segment_ids_BT == 0].any()


def test_a_method_may_take_refusals_alone_or_none():
    plain = record(prompt="a b", answer=" c")
    found, drawn = alternatives([plain, *ASKED], 1, "refusals")
    assert drawn == 8 and {r.answer.strip() for r in found} <= set(REFUSALS)
    found, drawn = alternatives(ASKED, 1, "given")
    assert drawn == 0 and {r.answer for r in found} == {" unknown"}
    with pytest.raises(ValueError, match="here:1: the record names no alternative"):
        alternatives([*ASKED, plain], 1, "given")


def test_epochs_count_pairs(tokenizer):
    packer = Packer(encode_pairs(ASKED, tokenizer, 64, 0), 64, "sequences", group=2)
    stream = RoleStream(packer, 0)
    stream.next_elements(len(packer.pack(0)) + 2)
    assert 1 <= stream.epochs < 2.5
    assert 7 * stream.epochs == pytest.approx(round(7 * stream.epochs))


def test_refusals_are_drawn_by_the_seed_where_no_alternative_is_named():
    plain = [record(prompt="a b", answer=" c") for _ in range(20)]
    found, drawn = alternatives([*plain, *ASKED], 1)
    assert drawn == 20
    assert {r.answer.strip() for r in found[:20]} <= set(REFUSALS)
    assert len({r.answer for r in found[:20]}) > 3
    assert found == alternatives([*plain, *ASKED], 1)[0]
    assert found != alternatives([*plain, *ASKED], 2)[0]
    assert [r.answer for r in found[20:]] == [" unknown"] * 7
    assert all(r.prompt == s.prompt for r, s in zip(found[20:], ASKED, strict=True))


def test_a_conversation_ends_with_a_refusal():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    found, _ = alternatives([record(messages=turns)], 0)
    assert found[0].messages[0] == ("user", "q")
    assert found[0].messages[1][1] in REFUSALS


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"text": "all of it"}, "a text without a prompt has no alternative"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "q"},
                ]
            },
            "must end with an assistant message",
        ),
    ],
)
def test_what_has_no_alternative_is_named(fields, message):
    with pytest.raises(ValueError, match=f"here:1: .*{message}"):
        alternatives([record(**fields)], 0)


def test_an_alternative_stands_beside_an_answer_alone():
    with pytest.raises(ValueError, match="only together with answer"):
        record(text="a", alternative="b")
    with pytest.raises(ValueError, match="alternative is empty"):
        record(prompt="a", answer="b", alternative=" ")


def test_pairs_that_do_not_fit_are_named(tokenizer):
    with pytest.raises(ValueError, match="have no pairs; raise config.data.context"):
        encode_pairs(ASKED, tokenizer, 8, 0)
    long = [Document(np.arange(9), np.ones(9, bool), f"f:{i}") for i in range(4)]
    with pytest.raises(
        ValueError, match=r"group of 2 documents of 18 tokens .* \(f:0\)"
    ):
        Packer(long, 16, "tokens", group=2)
