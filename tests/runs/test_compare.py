# SPDX-License-Identifier: Apache-2.0
"""Runs on one page: what is best of them, how they are named, and which are refused."""

import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from report_cases import EVIL, TASKS, parsed
from run_results import asked, of_questions
from scipy import stats
from settings_cases import settings_of

from jax_surgery.report import comparison, one_by_one, standing
from jax_surgery.report.comparison import Compared, Point
from jax_surgery.runs import compare
from jax_surgery.storage import files
from jax_surgery.train import checksums


def finished(
    folder, results: dict, run: str = "surgery", read: dict | None = None
) -> str:
    """A workdir of a finished run."""
    notes = read or {"config.data.questions": "1"}
    identity = {"read": notes, "sha256": checksums.of_value(notes)}
    contents = {
        "config.json": {"run": run},
        "finished.json": {"run": run},
        "results.json": results,
        "identity.json": identity,
    }
    for name, value in contents.items():
        files.write_text(f"{folder}/{name}", json.dumps(value))
    return str(folder)


def three(folder) -> str:
    """One that forgets more, one that retains more, and one that another beats."""
    scores = {"a": (0.26, 0.95), "b": (0.4, 0.99), "c": (0.5, 0.94)}
    return ",".join(
        finished(
            f"{folder}/{name}",
            of_questions(gone, retained=kept, settings={"model": "m", "steps": name}),
        )
        for name, (gone, kept) in scores.items()
    )


def go(workdirs: str, out) -> dict:
    return compare.run(settings_of("compare", {"workdirs": workdirs}), str(out))


@pytest.mark.parametrize("where", ["local", "bucket"])
def test_runs_on_one_page(where, request, tmp_path, capsys):
    folder = tmp_path if where == "local" else request.getfixturevalue("bucket")
    results = go(three(folder), f"{folder}/out")
    [written] = files.matching(f"{folder}/out", "results.json")
    assert json.loads(written.read_text())["runs"].keys() == {"a", "b", "c"}
    runs = results["runs"]
    assert {name: run["best"] for name, run in runs.items()} == {
        "a": True,
        "b": True,
        "c": False,
    }
    assert runs["a"]["forgotten"] == pytest.approx(1 - 0.01 / 0.75)
    low, high = runs["a"]["forgotten_interval"]
    assert low < runs["a"]["forgotten"] < high
    assert runs["c"]["answers"]["Forgotten"] == "partly"
    [page] = files.children(f"{folder}/out/report")
    text = page.read_text()
    assert parsed(text).seen.count("svg") == 1
    ends = f"{100 * low:.1f} to {100 * high:.1f}"
    for said in ("98.7 %", ends, "config.steps", "&#34;b&#34;", f"{folder}/c"):
        assert said in text, said
    assert "config.model" not in text.split("Where the configs differ")[1]
    out = capsys.readouterr().out
    assert "Of 3 runs no other beats these 2 in both ways: a (forgets 98.7 %" in out
    assert (
        "c: Forgotten partly; Learned yes; Retained partly; Survives attacks not" in out
    )


def test_runs_that_only_learn_are_compared_by_what_they_learned(tmp_path):
    tasks = {n: t | {"goal": "up"} if n == "add" else t for n, t in TASKS.items()}
    before, after = TASKS["add"]["after"], TASKS["add"]["before"]
    tasks["add"] = tasks["add"] | {"before": before, "after": after}
    results = {"tasks": tasks, "settings": {"model": "suite"}}
    both = [finished(tmp_path / name, results, "learn") for name in ("a", "b")]
    found = go(",".join(both), tmp_path / "out")["runs"]
    assert found["a"]["learned"] == pytest.approx((0.998 - 0.093) / (1 - 0.093))
    # As good as each other: neither beats the other.
    assert found["a"]["best"] and found["b"]["best"]
    text = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "None of 2 runs beats another in both ways" in text
    assert "Learned against retained" in text and "Where the configs" not in text


def test_the_best_are_those_that_no_other_beats():
    def point(goal, retained):
        return Point("", goal, None, retained, None)

    points = [point(0.9, 0.9), point(0.8, 0.8), point(0.9, 0.95), point(0.5, 1.0)]
    assert comparison.best(points) == [False, False, True, True]
    # 20 % beyond a model that never knew is as far from it as 20 % short.
    assert comparison.best([point(1.2, 0.9), point(0.8, 0.9)]) == [True, True]
    assert comparison.best([point(1.2, 0.9), point(0.9, 0.9)]) == [False, True]


def test_each_run_is_named_in_the_picture_with_its_intervals():
    names = ["a", EVIL, r"$\frac", *map(str, range(7))]
    points = [
        Point(n, 0.9, (0.88, 0.92), 0.99 - i / 50, None) for i, n in enumerate(names)
    ]
    root = xml.etree.ElementTree.fromstring(comparison.picture(points, "Forgotten"))
    said = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("text")]
    assert set(names) <= set(said)
    svg = comparison.picture(points[:1], "Forgotten")
    bare = [points[0]._replace(goal_interval=None)]
    assert len(comparison.picture(bare, "Forgotten")) < len(svg)


def test_runs_have_the_shortest_names_that_differ():
    assert compare.short_names(["runs/a", "gs://x/b"]) == ["a", "b"]
    assert compare.short_names(["x/1/run", "x/2/run"]) == ["1/run", "2/run"]
    assert compare.short_names(["run", "x/run"]) == ["run", "x/run"]


def other(**changes) -> dict:
    return of_questions() | changes


def without(role: str) -> dict:
    found = of_questions()
    found["group_roles"] = {g: r for g, r in found["group_roles"].items() if r != role}
    return found


@pytest.mark.parametrize(
    "results, message",
    [
        (of_questions(n=500), "a has 1,000 answers about 'old' (questions), and b has not"),
        (without("unlearn"), "b did not measure, before and after, how much is forgotten"),
        (without("retain"), "b did not measure, before and after, how much is retained"),
        ({"model": "m", "attacks": []}, "a run 'surgery' whose results.json has no scores"),
        ({"model": "m", "evaluation": {"old": asked(1.0)}, "group_roles": {"old": "unlearn"}},
         "b did not measure, before and after"),
        ({"before": 3, "after": 4}, "b, whose results.json or finished.json is damaged"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(tmp_path, results, message):
    both = [finished(tmp_path / "a", of_questions()), finished(tmp_path / "b", results)]
    with pytest.raises(ValueError, match=re.escape(message)):
        go(",".join(both), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_questions_with_other_content_are_refused(tmp_path):
    a = finished(tmp_path / "a", of_questions())
    b = finished(tmp_path / "b", of_questions(), read={"config.data.questions": "2"})
    with pytest.raises(ValueError, match="config.data.questions held other content"):
        go(f"{a},{b}", tmp_path / "out")
    c = finished(tmp_path / "c", of_questions(), read={"config.model": "2"})
    assert go(f"{a},{c}", tmp_path / "out")["runs"]["a"]["best"]


def test_workdirs_that_are_not_finished_runs_are_refused(tmp_path):
    a, out = finished(tmp_path / "a", of_questions()), tmp_path / "out"
    b = tmp_path / "b"
    for workdirs in ("", a):
        with pytest.raises(ValueError, match=r"names [01] runs; give two or more"):
            go(workdirs, out)
    with pytest.raises(ValueError, match="twice"):
        go(f"{a},{a}/", out)
    with pytest.raises(FileNotFoundError, match="/b, which does not exist"):
        go(f"{a},{b}", out)
    b.mkdir()
    with pytest.raises(ValueError, match="/b, which holds no run"):
        go(f"{a},{b}", out)
    (b / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="/b, whose run is not finished: it goes on"):
        go(f"{a},{b}", out)
    finished(b, of_questions())
    (b / "results.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        go(f"{a},{b}", out)
    (b / "results.json").unlink()
    (b / "finished.json").write_text('{"run": "edit"}')
    with pytest.raises(
        ValueError, match="a run 'edit' whose results.json has no scores"
    ):
        go(f"{a},{b}", out)


def test_the_page_says_that_models_differ(tmp_path):
    both = [
        finished(tmp_path / name, of_questions(settings={"model": name}))
        for name in ("a", "b")
    ]
    go(",".join(both), tmp_path / "out")
    text = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "began with different models (" in text


def test_what_is_all_there_is_has_no_interval():
    found = {"facts": {"unlearn": {"n": 4, "before": 4, "after": 1}}}
    evidence = standing.evidence({"free_form": found})
    run = Compared("a", "a", {}, evidence)
    assert run.done("unlearn") == 0.75 and run.interval("unlearn") is None
    assert run.done("retain") is None


def repeated(folder, name: str, right: dict[str, list[int]], seed: int = 0) -> str:
    """A run whose answers are known one by one: 1 or 0 of each group's questions."""
    scores = {g: sum(own) / len(own) for g, own in right.items()}
    results = of_questions(scores["old"], retained=scores["rest"], n=len(right["old"]))
    results["settings"] = {"steps": name, "seed": seed}
    workdir = finished(folder / f"{name}_{seed}", results)
    lines = [
        {"group": g, "metric": "multiple_choice", "id": f"{g}{i}", "about": f"{i // 2}",
         "value": value}
        for g, own in right.items() for i, value in enumerate(own)
    ]  # fmt: skip
    one_by_one.write(workdir, [line | {"value": 1.0} for line in lines], lines)
    return workdir


def test_runs_are_compared_on_the_same_questions(tmp_path, capsys):
    """`a` forgets 12 of 40 questions more, two of each of 6 people; both retain alike."""
    b = {"old": [1] * 30 + [0] * 10, "rest": [1] * 38 + [0] * 2}
    a = b | {"old": [0] * 12 + b["old"][12:]}
    both = [repeated(tmp_path, "a", a), repeated(tmp_path, "b", b)]
    found = go(",".join(both), tmp_path / "out")
    forgotten, retained = found["tests"]
    assert (forgotten["role"], forgotten["over"]) == ("unlearn", "questions")
    assert forgotten["difference"] == pytest.approx(-12 / 40)
    assert forgotten["n"] == 20  # people
    assert forgotten["p"] == pytest.approx(2 / 2**6)
    assert forgotten["p_holm"] == pytest.approx(4 / 2**6)
    low, high = forgotten["interval"]
    assert low < -12 / 40 < high < 0
    assert (retained["difference"], retained["p"]) == (0.0, 1.0)
    said = " ".join(capsys.readouterr().out.split())
    assert "a_0 less b_0, what is to be forgotten: -30.0 points" in said
    assert "(over 20 people, facts or texts; lower is better)" in said
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "Differences in pairs" in page and "Means over seeds" not in page


def test_runs_that_differ_in_seeds_alone_are_one_method(tmp_path):
    rng, folders = np.random.default_rng(0), []
    for name, forgotten in (("new", 0.3), ("old", 0.5)):
        for seed in range(3):
            right = {
                "old": (rng.uniform(size=60) < forgotten + 0.02 * seed)
                .astype(int)
                .tolist(),
                "rest": [1] * 57 + [0] * 3,
            }
            folders.append(repeated(tmp_path, name, right, seed))
    found = go(",".join(folders), tmp_path / "out")
    assert set(found["methods"]) == {"new", "old"}
    new = found["methods"]["new"]
    assert new["runs"] == ["new_0", "new_1", "new_2"] and new["n"] == 3
    values = [found["runs"][name]["forgotten"] for name in new["runs"]]
    assert new["forgotten"] == pytest.approx(np.mean(values))
    low, high = new["forgotten_interval"]
    assert low < min(values) and high > max(values)
    over = {(test["role"], test["over"]): test for test in found["tests"]}
    assert set(over) == {
        (role, way) for role in ("unlearn", "retain") for way in ("questions", "seeds")
    }
    seeds = over["unlearn", "seeds"]
    others = [found["runs"][f"old_{seed}"]["forgotten"] for seed in range(3)]
    assert seeds["n"] == 3
    assert seeds["p"] == pytest.approx(stats.ttest_rel(values, others).pvalue)
    assert over["unlearn", "questions"]["n"] == 30
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "Means over seeds" in page and "Student" in page


def test_runs_of_one_seed_are_not_averaged(tmp_path):
    right = {"old": [0, 1] * 5, "rest": [1] * 10}
    both = [repeated(tmp_path / name, "x", right) for name in ("a", "b")]
    found = go(",".join(both), tmp_path / "out")
    assert [one["n"] for one in found["methods"].values()] == [1, 1]


def test_removals_of_tasks_are_compared_on_the_same_texts(tmp_path):
    """A task is scored by a metric of its own."""
    both, kept = (
        [],
        {n: t for n, t in TASKS.items() if t["role"] in ("similar", "other")},
    )
    for name, values in (("a", [0.0] * 8 + [1.0] * 2), ("b", [1.0] * 10)):
        results = {"tasks": TASKS, "settings": {"steps": name}}
        workdir = finished(tmp_path / name, results, "unlearn")
        lines = [
            {"group": group, "metric": metric, "id": f"{i}", "about": f"{group} {i}",
             "value": value}
            for group, metric, own in (
                ("add", "exact_match", values),
                *((one, "answer_accuracy", [1.0] * 10) for one in kept),
            )
            for i, value in enumerate(own)
        ]  # fmt: skip
        one_by_one.write(workdir, lines, lines)
        both.append(workdir)
    gone, retained = go(",".join(both), tmp_path / "out")["tests"]
    assert (gone["role"], gone["n"], gone["over"]) == ("unlearn", 10, "questions")
    assert gone["difference"] == pytest.approx(-0.8)
    assert gone["p"] == pytest.approx(2 / 2**8)
    assert (retained["difference"], retained["n"]) == (0.0, 10 * len(kept))


def test_answers_that_are_damaged_are_refused(tmp_path):
    right = {"old": [0, 1] * 5, "rest": [1] * 10}
    both = [repeated(tmp_path, name, right) for name in ("a", "b")]
    (tmp_path / "b_0" / one_by_one.ANSWERS_FILE).write_text('{"group": "old"}\n')
    with pytest.raises(ValueError, match=r"answers.jsonl is damaged .* in pairs"):
        go(",".join(both), tmp_path / "out")
