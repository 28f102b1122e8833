# SPDX-License-Identifier: Apache-2.0
"""Every kind of page in headless Chromium: light and dark, on a phone, printed, and read
again while a run goes on."""

import json
import pathlib
import re

import browser as pages
import numpy as np
import pytest
from report_cases import COST, METRICS, TASKS
from run_results import asked, attacked, of_questions
from settings_cases import settings_of

from jax_surgery.report import attack, budget, evaluation, live, page, summary, table
from jax_surgery.report import subspace_pictures as subspaces
from jax_surgery.report.live import Live
from jax_surgery.runs import compare

pytestmark = pytest.mark.slow
CURVE = [{"step": i, "obsolete": 1 - i / 9, "update": i / 9} for i in range(9)]
KINDS = ("surgery", "tasks", "automatic", "live", "evaluation", "comparison")
LONG = "a-group-with-a-very-long-name-that-has-no-space-in-it-anywhere-at-all"


def point(label: str, steps: int, right: float) -> dict:
    metric = {"value": right, "interval": [0, 1], "n": 9, "reference": 0.25}
    groups = {"old": {"multiple_choice": metric}, LONG: {"multiple_choice": metric}}
    return {"label": label, "steps": steps, "tokens": 0, "flops": 0, "groups": groups}


ATTACKS = [
    {"attack": "blocks", "reference_curve": [],
     "curve": [point("", 0, 0.3)] + [point(f"layer {i} without both", 1, 0.5) for i in range(6)]},
    {"attack": "relearning", "reference_curve": [point("", 0, 0.2), point("", 9, 0.3)],
     "curve": [point("", 0, 0.3), point("", 9, 0.6)]},
]  # fmt: skip


def surgery() -> page.Page:
    results = of_questions(**attacked("suppressed"))
    before, after = ({LONG: asked(score)} for score in (1.0, 0.3))
    example = page.Example(
        about="old", prompt="Who? " * 40, reference=LONG, before=LONG, after="x"
    )
    shown = page.Page(
        title="LLM Surgery",
        subtitle=f"model {LONG}",
        verdict=summary.of(results),
        rows=table.accuracy_rows(before, after),
        chances={LONG: 0.25},
        intervals="Wilson",
        warnings=[f"Look at {LONG}{LONG}."],
        metrics=METRICS,
        curve=CURVE,
        cost=COST,
        examples=[example],
        more_examples=[example],
        settings={"model": LONG * 3},
    )
    return attack.with_attacks(shown, {"verdict": {}, "attacks": ATTACKS})


def tasks() -> page.Page:
    along = [
        {"alpha": a, "scores": {"add": 1 - a}, "removed": {"add": a}, "drop": {"sub": 0.01 * a}}
        for a in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    values = np.random.default_rng(0).random((4, 8))
    names = ["add", "sub", *(f"people_{i}" for i in range(14)), "previous", "smaller"]
    squares = np.eye(len(names)) + 0.2
    figures = {
        "Along alpha": subspaces.alpha_curves(along, ["add"], ["sub"], learns=False, used=1.0),
        "Overlap": subspaces.angle_matrix(names, squares / 1.2, {"add": "sum", "sub": "sum"}),
        "Spectra": subspaces.spectra({n: values for n in ("q", "k", "v", "gate")}, 0),
    }  # fmt: skip
    return page.Page(
        title="Tasks removed: add",
        subtitle="model suite",
        verdict=summary.of({"tasks": TASKS}),
        rows=table.task_rows(TASKS),
        figures=[page.Figure(title=t, svg=s, caption=t) for t, s in figures.items()],
        settings={},
    )


def automatic() -> page.Page:
    curve = [
        {
            "step": 6 * i,
            "kl": 0.001 * i,
            "forget": 3 / i,
            "update": 2 / i,
            "factor": 1.0,
        }
        for i in range(1, 5)
    ]
    found = {"budget": 0.02, "step": 24, "steps": 24, "reached": True, "why": "So.",
             "curve": curve}  # fmt: skip
    marked = [
        ("The ", 0.0),
        ("tower", 0.2),
        (" Eif", 0.7),
        ("fel", 1.2),
        (" Paris", 3.0),
    ]
    shown = page.Page(title="LLM Surgery", subtitle="m", rows=[], settings={})
    shown["knowledge"] = [{"about": "Where?", "tokens": marked}]
    return budget.with_budget(shown, found)


def written(kind: str, folder: pathlib.Path) -> pathlib.Path:
    """A page of a kind, in a folder."""
    if kind == "evaluation":
        results = {"model": "m", "evaluation": {"old": asked(0.3)}, "text": {},
                   "group_roles": {"old": "unlearn"}, "settings": {}}  # fmt: skip
        evaluation.write(str(folder), results)
    elif kind == "live":
        lines = "".join(json.dumps(row) + "\n" for row in CURVE)
        (folder / "curve.jsonl").write_text(lines)
        rows = live.begun(
            table.accuracy_rows({"obsolete": asked(1.0)}, {"obsolete": asked(1.0)})
        )
        Live(
            str(folder), page.Page(title="t", subtitle="s", rows=rows, settings={})
        ).write()
    elif kind == "comparison":
        for name, gone in (("a", 0.3), (LONG, 0.6), ("c", 0.9)):
            (folder / name).mkdir()
            found = of_questions(gone, settings={"model": "m", "text": LONG * 2 + name})
            for file, value in (("finished", {"run": "surgery"}), ("results", found)):
                (folder / name / f"{file}.json").write_text(json.dumps(value))
        workdirs = ",".join(str(folder / name) for name in ("a", LONG, "c"))
        compare.run(settings_of("compare", {"workdirs": workdirs}), str(folder))
    else:
        html = page.render(
            {"surgery": surgery, "tasks": tasks, "automatic": automatic}[kind]()
        )
        (folder / "report").mkdir()
        (folder / "report" / "index.html").write_text(html)
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def browser():
    with pages.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, pathlib.Path]:
    return {kind: written(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def faint(shown) -> list[str]:
    """Texts that can hardly be seen, but for figures in cells with colours of their own."""
    found = [text for text, _ in shown.evaluate(pages.FAINT)]
    return [text for text in found if not re.fullmatch(r"[01]\.\d\d", text)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_drawn_and_texts_are_seen(browser, files, kind, scheme):
    with pages.opened(browser, files[kind], color_scheme=scheme) as shown:
        drawn = shown.locator("svg")
        wanted = len(re.findall(r"<svg ", files[kind].read_text()))
        assert drawn.count() == wanted >= (kind != "evaluation")
        for number in range(wanted):
            box = drawn.nth(number).bounding_box()
            assert box["width"] > 400 and box["height"] > 80
            # Lines and letters have edges of many shades; an empty picture has one colour.
            assert pages.colours_of(drawn.nth(number)) > 20
        assert not shown.evaluate(pages.CUT)
        assert not faint(shown)
        assert not shown.evaluate(pages.BEYOND)


@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_shows_a_page_without_scrolling_aside(browser, files, kind):
    with pages.opened(browser, files[kind], pages.PHONE, is_mobile=True) as shown:
        assert shown.evaluate(pages.WIDTH) <= pages.PHONE
        assert not shown.evaluate(pages.BEYOND)
        if shown.locator("svg").count():
            assert shown.evaluate(pages.SMALLEST) > 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_printed_page_is_light_and_whole(browser, files, kind):
    with pages.opened(browser, files[kind], pages.PAPER, color_scheme="dark") as shown:
        shown.emulate_media(media="print", color_scheme="dark")
        assert (
            shown.evaluate("() => getComputedStyle(document.body).color")
            == "rgb(29, 35, 43)"
        )
        assert shown.evaluate(pages.WIDTH) <= pages.PAPER
        assert not shown.evaluate(pages.HIDDEN)
        assert not faint(shown)
        pdf = shown.pdf(format="A4")
        assert pdf.startswith(b"%PDF") and b"/Type /Page" in pdf


def test_the_verdict_stands_above_the_first_table_on_the_first_screen(browser, files):
    with pages.opened(browser, files["surgery"]) as shown:
        boxes = shown.locator(".verdict li")
        assert boxes.count() == 4
        tops = {round(box.bounding_box()["y"]) for box in boxes.all()}
        assert len(tops) == 1 and tops.pop() < 400  # in one line
        assert shown.locator("table").first.bounding_box()["y"] > 400
        assert boxes.first.inner_text().startswith("Forgotten")


def test_a_page_reads_itself_again_until_the_run_is_finished(
    browser, tmp_path, monkeypatch
):
    monkeypatch.setattr(live, "RELOAD", 1)
    rows = live.begun(table.task_rows(TASKS))
    shown = page.Page(title="Mine", subtitle="", rows=rows, settings={})
    watched = Live(str(tmp_path), shown)
    watched.write("at step 1")
    file = tmp_path / "report" / "index.html"
    with pages.opened(browser, file) as seen:
        watched.write("at step 2")
        seen.get_by_text("written at step 2").wait_for(timeout=10_000)
        file.write_text(page.render(shown | {"title": "Done"}))
        seen.get_by_role("heading", name="Done").wait_for(timeout=10_000)
        assert not seen.locator(".unfinished").count()
