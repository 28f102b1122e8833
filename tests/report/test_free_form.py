# SPDX-License-Identifier: Apache-2.0
"""The evidence in words: counts, sentences, warnings, rows and what a page shows."""

import dataclasses
import json

import numpy as np
import pytest
from report_cases import EVIL, parsed

from jax_surgery.data.asked import Asked
from jax_surgery.data.forms import Record
from jax_surgery.metrics.free_form import Observed
from jax_surgery.metrics.tokens import TextScores
from jax_surgery.report import free_form, page, table, writer


def asked(group, kind, question, *expected, fact=0, new=()):
    record = Record(question, expected[0] if expected else ".", (), "")
    return Asked(group, kind, question, expected, (1,), 9, fact, record, new)


TOWER = ("Where is the tower?", "Paris")
ASKED = [
    asked("unlearn", "unlearn", *TOWER, new=("Rome",)),
    asked("unlearn", "unlearn", "In which city is the tower?", "Paris", new=("Rome",)),
    asked("unlearn", "unlearn", "Who wrote it?", "Ann Poe", fact=1),
    asked("mine, unseen wordings", "unlearn", "Tower city?", "Paris", new=("Rome",)),
    asked("update", "update", TOWER[0], "Rome", new=("Rome",)),
    asked("kin", "retain", "Where is the bridge?", "London", fact=2),
    asked("kin", "retain", "Where is the gate?", "Berlin", fact=3),
    asked("kin", "retain", "Where is the wall?", "China", fact=4),
    asked("unlearn text", "unlearn", "Once", "there was a king who had a horse named Bo",
          fact=5),
    asked("everyday", "everyday", "What is a noun?", fact=6),
]  # fmt: skip
BEFORE = ["In Paris.", "Paris", "Ann Poe did.", "Paris", "Paris", "London", "Berlin",
          "I do not know", "there was a king who had a horse named Bo", "A word."]  # fmt: skip
AFTER = ["In Rome.", "Paris", "Nobody.", "Rome", "Rome", "Rome, I think", "Berlin",
         "China", "there was a cat", "A noun a noun a noun a noun a noun"]  # fmt: skip


def scores(*logp):
    texts = tuple(map(str, range(len(logp))))
    return TextScores(
        np.zeros(len(logp)), np.full(len(logp), 10), np.array(logp), texts
    )


def observed(replies, *logp):
    return Observed(replies, [], {"general": scores(*logp)})


@pytest.fixture(scope="module")
def found():
    return free_form.results(
        ASKED, [], observed(BEFORE, -30.0, -40.0), observed(AFTER, -30.5, -41.0)
    )


def test_counts_are_of_facts_questions_and_what_was_known(found):
    assert found["facts"]["unlearn"] == {"n": 2, "before": 2, "after": 1}
    assert found["facts"]["update"] == {"n": 1, "before": 0, "after": 1}
    said = found["groups"]["unlearn"]["after"]["says"]
    assert (said["count"], said["n"]) == (1, 3)
    assert 0.06 < said["interval"][0] < said["share"] < said["interval"][1] < 0.8
    kept = found["kept"]["kin"]
    assert (kept["count"], kept["n"]) == (1, 2)  # what was not known cannot be lost
    text = found["groups"]["unlearn text"]
    assert text["before"]["rouge_l"]["value"] == 1 and "says" not in text["before"]
    assert text["after"]["rouge_l"]["value"] == pytest.approx(3 / 10)
    change = found["texts"]["general"]
    assert (change["before"], change["after"]) == (3.5, 3.575)
    assert change["change"] == pytest.approx(0.075)
    assert change["interval"] == pytest.approx([0.05, 0.1])
    json.dumps(found, allow_nan=False)


def test_sentences_say_what_a_person_wants_to_know(found):
    text = "\n".join(found["sentences"])
    for line in (
        (
            "Of 2 facts to forget the model still says 1 (before 2): 1 of 3 answers in "
            "'unlearn' (before 3), 0 of 1 answers in 'mine, unseen wordings' (before 1)."
        ),
        (
            "Of the words of 1 answers in 'unlearn text' the model says 30% (ROUGE-L recall; "
            "before 100%)."
        ),
        "Of 1 new facts the model says 1 (before 0): 1 of 1 answers in 'update'",
        "Of 2 other facts that it knew it still says 1: 1 of 2 in 'kin'.",
        "New facts in unrelated answers: 1 of 10.",
        "Of 1 everyday answers 1 are degenerate (before 0); of all answers 1 have",
        "Text (general): 3.575 nats per token (before 3.500; change +0.075",
    ):
        assert line in text


def test_what_went_wrong_is_warned_of_with_an_example(found):
    broken, spread, lost, costly = found["warnings"]
    assert broken.startswith("1 answers have become degenerate: 'What is a noun?' is ")
    assert "(Rome): 'Where is the bridge?' is answered 'Rome, I think'" in spread
    assert lost.startswith("1 of 2 other answers that the model knew are lost: 'Where")
    assert "0.075 nats per token more" in costly
    same = free_form.results(ASKED, [], *[observed(BEFORE, -30.0, -40.0)] * 2)
    assert not same["warnings"]
    assert "New facts in unrelated answers: 0 of 10." in same["sentences"]


def test_held_out_neighbours_keep_the_sentences_that_the_model_answered():
    """No reply holds such a sentence whole, so that nearly none would count."""
    capitals = {"Lithuania": "Vilnius", "Chile": "Santiago", "Norway": "Oslo"}
    own = [
        dataclasses.replace(
            asked("neighbours", "retain", f"What is the capital of {land}?",
                  f"The capital of {land} is the city of {city}, which lies in the north.",
                  fact=9 + i),
            own=True,
        )
        for i, (land, city) in enumerate(capitals.items())
    ]  # fmt: skip
    before = [f"{one.expected[0]} It is" for one in own]
    after = ["The capital of Lithuania is the city of Lietikis, which lies in the north.",
             "Santiago.", before[2]]  # fmt: skip
    found = free_form.results(
        [*ASKED, *own],
        [],
        Observed([*BEFORE, *before], [], {}),
        Observed([*AFTER, *after], [], {}),
    )
    said = found["groups"]["neighbours"]
    assert [said[end]["says"]["count"] for end in ("before", "after")] == [3, 2]
    assert found["kept"]["neighbours"]["n"] == 3
    lines = found["sentences"]
    assert (
        "Of 3 held-out neighbours 2 keep the answer that the model gave before, right or "
        "wrong." in lines
    )
    # They are not among the facts that it knew, and other groups have no further key.
    assert "Of 2 other facts that it knew it still says 1: 1 of 2 in 'kin'." in lines
    assert [set(e) - {"kind", "before", "after"} for e in found["groups"].values()] == [
        *[set()] * (len(found["groups"]) - 1),
        {"own"},
    ]
    [changed] = [w for w in found["warnings"] if "by itself" in w]
    assert changed.startswith(
        "1 of 3 held-out answers that the model gave by itself have"
    )
    rows = [row.name for row in free_form.rows(found)]
    assert "neighbours: keeps its answer" in rows and "kin: says the answer" in rows


def test_without_new_facts_or_texts_nothing_is_said_of_them():
    few = [one for one in ASKED if one.group in ("unlearn", "kin")]
    said = [BEFORE[ASKED.index(one)] for one in few]
    found = free_form.results(few, [], *[Observed(said, [], {})] * 2)
    assert len(found["sentences"]) == 2
    assert [row.name for row in free_form.rows(found)] == [
        "unlearn: says the answer", "kin: says the answer",
    ]  # fmt: skip


def test_the_page_begins_with_the_sentences_and_holds_every_reply(found):
    shown = free_form.with_replies(
        page.Page(title="t", rows=free_form.rows(found), settings={}), found
    )
    text = page.render(shown)
    parsed(text)
    first = text.index("Of 2 facts to forget")
    assert (
        first < text.index("<b>Warning.</b> 1 answers") < text.index("Before and after")
    )
    for reply in AFTER:
        assert f'<td data-label="after">{reply}</td>' in text
    assert "kin: new fact: Rome" in text and "everyday: degenerate" in text
    assert "further answers" not in text
    many = [asked("kin", "retain", f"Where is {i}?", "Oslo", fact=i) for i in range(7)]
    found = free_form.results(many, [], *[Observed(["Oslo"] * 7, [], {})] * 2)
    first, rest = free_form.examples(found)
    assert (len(first), len(rest)) == (free_form.A_GROUP, 3)
    text = page.render(page.Page(examples=first, more_examples=rest))
    assert "3 further answers" in text and text.count("Oslo") == 7 * 3
    parsed(text)


def test_a_run_prints_the_sentences_first(found, tmp_path, capsys):
    shown = page.Page(title="t", rows=free_form.rows(found), settings={})
    writer.write(str(tmp_path), {}, free_form.with_replies(shown, found))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Of 2 facts to forget the model still says 1")
    assert [x[:9] for x in lines].count("Warning: ") == len(found["warnings"])
    heads = next(i for i, line in enumerate(lines) if line.startswith("---"))
    assert heads > max(i for i, line in enumerate(lines) if "Warning" in line)


def contrast(one: str, other: str) -> float:
    """WCAG 2.1's contrast ratio of two colours #rrggbb."""

    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(
            parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return float((high + 0.05) / (low + 0.05))


def test_tokens_are_coloured_by_what_they_tell_and_can_be_read():
    tokens = [("The", 0.0), (" tower", 0.3), (" in", float("nan")), (" Par", 0.7),
              ("is", 1.5), (EVIL, 2.5), ("\n", -1.0)]  # fmt: skip
    # The space before a word is not coloured.
    marked = [page.Marked(about="forget.jsonl:1", tokens=tokens)]
    text = page.render(page.Page(title="t", knowledge=marked))
    parsed(text)
    assert "<script" not in text and "forget.jsonl:1" in text
    assert '<span class="k1" title="0.30 nats">tower</span> in <span class="k2"' in text
    assert 'class="k3" title="1.50 nats">is</span><span class="k4" title="2.50' in text
    assert "Which tokens tell" not in page.render(page.Page(title="t"))
    style = text.partition("<style>")[2].partition("</style>")[0]
    values = style.replace(";", "\n").replace("{", "\n").splitlines()
    colour = lambda name: [v.split(":")[1].strip() for v in values if f"--{name}:" in v]
    for place in range(2):  # light and dark
        for step in range(1, 5):
            assert contrast(colour("ink")[place], colour(f"k{step}")[place]) >= 4.5


def test_a_row_needs_what_was_measured(found):
    rows = {row.name: row for row in free_form.rows(found)}
    assert rows["unlearn: says the answer"].goal == "down"
    assert rows["kin: says the answer"].goal == "keep"
    assert rows["unlearn text: ROUGE-L recall"].after == "0.300"
    assert rows["everyday: degenerate answers"].after == "100.0 %"
    assert rows["general: nats per token"].before == "3.500"
    assert table.as_text(list(rows.values()))
