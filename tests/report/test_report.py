# SPDX-License-Identifier: Apache-2.0
"""The report page and the printed table: what they show, and that texts stay texts."""

import re
import xml.etree.ElementTree

import numpy as np
import pytest
from report_cases import COST, EVIL, METRICS, parsed

from jax_surgery.data.questions import Question
from jax_surgery.metrics import multiple_choice
from jax_surgery.metrics.multiple_choice import Answers
from jax_surgery.report import attack_pictures, page, pictures, table

ACCURACY = {
    "accuracy": 0.25,
    "n": 1190,
    "interval": [0.226, 0.275],
    "trained": {"accuracy": 0.3, "n": 595, "interval": [0.26, 0.34]},
    "unseen": {"accuracy": 0.2, "n": 595, "interval": [0.17, 0.23]},
}
KNOWN = {"accuracy": 0.998, "n": 1190, "interval": [0.994, 1.0]}
KNOWN |= {w: KNOWN for w in ("trained", "unseen")}
CURVE = [{"step": i, "obsolete": 1 - i / 9, "<b>mine": 0.5} for i in range(9)]


def whole_page(**changes) -> str:
    return page.render(
        page.Page(
            **{
                "title": f"Title {EVIL}",
                "subtitle": EVIL,
                "rows": table.accuracy_rows({"mine": KNOWN}, {"mine": ACCURACY}),
                "intervals": "Wilson",
                "metrics": METRICS,
                "curve": CURVE,
                "examples": [
                    page.Example(
                        about=EVIL,
                        prompt=EVIL,
                        reference="r",
                        before="b",
                        after="</table>",
                    )
                ],
                "cost": COST,
                "settings": {"model": EVIL, "steps": 48},
            }
            | changes
        )
    )


def test_texts_are_escaped_and_nothing_comes_from_elsewhere():
    text = whole_page()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    tags = parsed(text).seen
    assert tags.count("svg") == 3
    assert "link" not in tags and "img" not in tags


MATHS = r"costs $5 and $\frac"  # which matplotlib would set as mathematics, and fail


@pytest.mark.parametrize("name", [f"</svg><b>{EVIL}", MATHS + "{{ 7 * 7 }} &amp;"])
def test_names_from_data_stay_text_in_pictures(name):
    curve = [{"step": i, "obsolete": 0.5, name: 0.5} for i in range(3)]
    point = {"steps": 0, "groups": {name: {"rouge_l": {"value": 0.5}}}}
    svgs = [
        pictures.accuracy_curves(curve, {name: 0.25, "obsolete": 0.1}),
        pictures.cost_bars(COST | {"items": {name: 1e12}}),
        attack_pictures.curves("rouge_l", [([point], [point])]),
        pictures.as_svg(pictures.sheet(1, 1), name),
    ]
    for svg in svgs:
        root = xml.etree.ElementTree.fromstring(svg)  # is well formed
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert not tags & {"script", "b", "img", "a"}
        said = "".join(root.itertext()) + root.get("aria-label")
        assert name.strip() in said


def test_the_page_shows_what_was_measured():
    text = whole_page()
    for figure in ("99.8 %", "25.0 %", "22.6 to 27.5", "1,190", "50.0 times"):
        assert figure in text, figure
    assert "<td>unseen wordings</td>" in text
    assert '"steps": 48' in text.replace("&#34;", '"')
    assert "jax" in text


@pytest.mark.parametrize(
    "key, heading",
    [
        ("rows", "Before and after"),
        ("metrics", "The three terms over steps"),
        ("curve", "Accuracies over steps"),
        ("examples", "Answers before and after"),
        ("cost", "Cost against"),
    ],
)
def test_what_was_not_measured_has_no_section(key, heading):
    assert f"<h2>{heading}" in whole_page()
    without = whole_page(**{key: {} if key == "cost" else []})
    assert f"<h2>{heading}" not in without
    parsed(without)


def test_the_same_run_gives_the_same_page():
    assert whole_page() == whole_page()


@pytest.mark.parametrize(
    "svg",
    [
        pictures.loss_curves(METRICS),
        pictures.loss_curves([{"step": 0, "update_ce": 1.0}]),
        pictures.accuracy_curves(CURVE, {"obsolete": 0.25}),
        pictures.cost_bars(COST),
        pictures.cost_bars(COST | {"items": {str(i): 1e12 for i in range(6)}}),
    ],
)
def test_pictures_are_valid_and_scale(svg):
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.get("viewBox") and root.get("width") is None
    assert root.get("aria-label")


def test_the_printed_table_is_aligned():
    rows = table.accuracy_rows({"mine": KNOWN}, {"mine": ACCURACY})
    roles = {
        "unlearn": {
            "before": {
                "nll_per_token": 0.5,
                "memorised": 0.9,
                "interval": [0, 1],
                "n": 10,
            },
            "after": {
                "nll_per_token": 5.5,
                "memorised": 0.1,
                "interval": [5, 6],
                "n": 10,
            },
        }
    }
    lines = table.as_text(rows + table.role_rows(roles)).splitlines()
    body = [line for line in lines if not set(line) <= {"-"}]
    assert len({len(line) for line in body}) == 1
    assert "  unseen wordings" in body[3]
    # What was recalled has columns of its own, and none where nothing was asked.
    columns = [head.start() for head in re.finditer(r"tokens recalled", body[0])]
    ends = [start + len("tokens recalled") for start in columns]
    assert [body[-1][:end].split()[-2:] for end in ends] == [
        ["90.0", "%"],
        ["10.0", "%"],
    ]
    assert "5.500" in body[-1]
    assert all(not body[1][start:end].strip() for start, end in zip(columns, ends))
    assert "recalled" not in table.as_text(rows)
    shown = whole_page(rows=table.role_rows(roles))
    assert "<small>10.0 % of tokens recalled</small>" in shown
    assert "50 times as much" in table.cost_text(COST)


def test_rows_of_metrics_have_goals():
    metrics = {
        "rouge_l": {"value": 0.7, "interval": [0.6, 0.8], "n": 200},
        "nats_per_token": {"value": 0.9, "interval": [0.8, 1.0], "n": 20},
    }
    groups = dict.fromkeys(("forget", "news", "others"), metrics)
    roles = {"forget": "unlearn", "news": "update"}
    rows = table.metric_rows(groups, groups, roles)
    # Of what is known, ROUGE-L is high and nats are few.
    goals = ["down", "up", "up", "down", "keep", "keep"]
    assert [row.goal for row in rows] == goals
    assert (rows[0].name, rows[0].after_interval) == (
        "forget: ROUGE-L recall",
        "0.600 to 0.800",
    )
    assert (rows[1].name, rows[1].after, rows[1].count) == (
        "forget: nats per token",
        "0.900",
        20,
    )
    assert {row.goal for row in table.metric_rows(groups, groups)} == {""}


@pytest.mark.parametrize(
    "terms, labels, unit",
    [
        ({"unlearn_ce": 1.0, "unlearn_loss": -1.0, "retain_ce": 2.0}, "CE", "nats"),
        ({"unlearn_loss": 1.0, "update_ce": 1.0, "retain_loss": 2.0}, "loss", "loss"),
    ],
    ids=["retain_ce", "hidden states"],
)
def test_the_terms_of_every_method_are_drawn(terms, labels, unit):
    svg = pictures.loss_curves([{"step": 0} | terms, {"step": 1} | terms])
    for role in ("unlearn", "retain"):
        assert f">{role}: {labels}<" in svg
    assert f">{unit}<" in svg


@pytest.mark.filterwarnings("error")
def test_a_run_without_questions_has_no_picture_of_them():
    text = whole_page(curve=[{"step": 0}, {"step": 4}], metrics=[{"step": 1}])
    assert "<h2>Accuracies over" not in text and "<h2>The three terms" not in text
    figure, axes = pictures.panel(2, 2)
    pictures.legend(axes)  # of nothing
    assert axes.get_legend() is None and pictures.as_svg(figure, "empty")


def asked(**options: tuple[int, ...]) -> dict:
    """Results of questions by group, each with so many options."""
    questions = tuple(
        Question(f"{group}{i}", group, "trained", "p", tuple("abcdefgh"[:count]), 0)
        for group, counts in options.items()
        for i, count in enumerate(counts)
    )
    nothing = tuple(np.zeros(len(q.options)) for q in questions)
    choice = np.zeros(len(questions), int)
    return multiple_choice.summarise(Answers(questions, choice, nothing))


@pytest.mark.parametrize(
    "entries, said, levels",
    [
        (asked(a=(4, 4), b=(4,)), "chance is 25 %.", 1),
        (asked(a=(3, 3)), "chance is 33.3 %.", 1),
        (asked(a=(2, 4), b=(3,)), "is 37.5 % for a, 33.3 % for b.", 2),
        ({}, None, 0),
    ],
)
def test_chance_is_one_in_as_many_as_a_question_has_options(entries, said, levels):
    chances = table.chances_of(entries)
    rows = table.accuracy_rows(entries, entries)
    text = whole_page(rows=rows, chances=chances)
    assert (said in text) if said else "Multiple choice" not in text
    picture = pictures.accuracy_curves(CURVE, chances)
    assert picture.count(">chance") == levels
    for group, entry in entries.items():
        assert entry["chance"] == entry["trained"]["chance"] == chances[group]
