# SPDX-License-Identifier: Apache-2.0
"""The trade-off curve of a run that keeps to a budget, and what the run chose."""

import xml.etree.ElementTree

import pytest
from report_cases import EVIL, parsed

from jax_surgery.report import budget, free_form, page


def point(step, forget, update, kl, **more):
    found = {"step": step, "forget": forget, "update": update, "kl": kl}
    return found | {"kl_chat": kl / 4, "kl_neighbours": kl, "factor": 1.5 * step} | more


FOUND = {
    "budget": 0.02,
    "step": 12,
    "steps": 24,
    "reached": False,
    "why": f"The budget is too small {EVIL}.",
    "written": {"neighbours": 224, "chat": 72, "own": 9, "sentences": 0},
    "knowledge_tokens": 1541,
    "curve": [
        point(6, 2.2, 1.4, 0.011),
        point(12, 1.1, 1.0, 0.021),
        point(18, 0.6, 0.8, 0.045),
        point(24, 0.5, 0.7, 0.05),
    ],
}


@pytest.fixture(scope="module")
def figure():
    [figure] = budget.figures(FOUND)
    return figure


def texts_of(figure) -> list[str]:
    root = xml.etree.ElementTree.fromstring(figure["svg"])
    return [t.text or "" for t in root.iter() if t.tag.endswith("text")]


def test_each_point_has_its_step_in_both_panels_beside_the_budget(figure):
    texts = texts_of(figure)
    assert [texts.count(str(step)) for step in (6, 12, 18, 24)] == [2] * 4
    assert texts.count("budget") == 2
    assert "KL on held-out text of the worst kind, nats per token" in texts


def test_the_exported_step_alone_is_ringed(figure):
    """A step that was not measured has no ring."""
    [other] = budget.figures(FOUND | {"step": 99})
    markers = lambda one: one["svg"].count("<use ")
    assert markers(figure) == markers(other) + 2


def test_what_is_no_number_is_not_drawn_and_many_numbers_leave_each_other_room():
    """The exported step's has its place also where the budget is far beyond all points."""
    steps = list(map(str, range(600, 700)))
    near = [point(int(i), 0.5, 0.7, 0.03 + 1e-5 * int(i)) for i in steps]
    bad = [{"step": 30}, point(36, float("nan"), 1.0, 0.04), point(42, 1.0, 1.0, 0.0)]
    [figure] = budget.figures(FOUND | {"curve": near + bad, "step": 650, "budget": 1.0})
    texts = texts_of(figure)
    assert texts.count("650") == 2 and not {"30", "36", "42"} & set(texts)
    assert 2 < sum(text in steps for text in texts) < 40
    assert not budget.figures(FOUND | {"curve": bad})
    assert not budget.figures({"budget": 0.02})
    assert dict(budget.chosen({"budget": 0.02})).keys() == {"budget"}


def test_what_the_run_chose_is_listed():
    assert dict(budget.chosen(FOUND)) == {
        "budget": "0.02 nats per token of KL on held-out text",
        "steps": "24 taken, step 12 exported",
        "weight of the retain term at the end": "36 times config.objective.gamma",
        "KL by kind of held-out text": "chat 0.0053, neighbours 0.021 nats per token",
        "texts that the model wrote": "neighbours 224, chat 72, answers to what is forgotten 9",
        "tokens that carry knowledge": "1,541",
    }
    faster = FOUND | {"curve": [point(12, 1.0, 1.0, 0.02, rate=2.5)]}
    assert (
        dict(budget.chosen(faster))["size of the steps at the end"]
        == "2.5 times config.optimizer.learning_rate"
    )


def test_the_page_holds_the_curve_and_warns_where_the_ends_were_not_reached():
    shown = page.Page(title="t", rows=[], settings={}, warnings=["Another."])
    shown = budget.with_budget(shown, FOUND)
    found = {
        "groups": {},
        "replies": [],
        "sentences": ["First."],
        "warnings": ["Last."],
    }
    text = page.render(free_form.with_replies(shown, found))
    parsed(text)
    assert "<script" not in text and "The budget is too small &lt;script" in text
    order = ["First.", "their ends within the budget of 0.02", "Another.", "Last.",
             "What the run chose", "Trade-off curve</h2>", "<svg"]  # fmt: skip
    places = [text.index(one) for one in order]
    assert places == sorted(places)
    assert text.count('<th scope="row">') == 6
    without = budget.with_budget(page.Page(), {"budget": 0.02, "reached": True})
    assert without["warnings"] == []
    assert "What the run chose" not in page.render(page.Page(title="t"))
