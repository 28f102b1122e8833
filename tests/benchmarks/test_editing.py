# SPDX-License-Identifier: Apache-2.0
"""CounterFact, ZsRE and KnowEdit: their schemas as requests, roles and probes."""

import json
import pathlib

import benchmark_files as made
import pytest

from jax_surgery import benchmarks
from jax_surgery.data import records

CONTEXT = 128
DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
COUNTERFACT = DATA / "counterfact" / "counterfact_edit.jsonl"
KNOWEDIT = DATA / "knowedit" / "zsre_test.jsonl"


def needs(file: pathlib.Path):
    reason = f"no ../shared/data/{file.relative_to(DATA)} here"
    return pytest.mark.skipif(not file.exists(), reason=reason)


def of(name: str, file: str, **options):
    given = {"file": file, "edits": 3, "retained": 3} | options
    listed = ",".join(f"{key}={value}" for key, value in given.items())
    return benchmarks.parse(f"{name}:{listed}")


def texts(benchmark) -> dict[str, list[str]]:
    return {
        group.name: [r.text for r in records.read_role(group.data, group.name)]
        for group in benchmark.groups()
    }


def by_name(benchmark):
    return {probe.group: probe for probe in benchmark.probes(CONTEXT)}


@pytest.mark.parametrize("form", ["counterfact_rows", "counterfact_edit_rows"])
def test_counterfact_asks_new_against_true(form, tmp_path):
    file = made.save(tmp_path / "c.json", getattr(made, form)())
    benchmark = of("counterfact", file)
    read = texts(benchmark)
    assert read["old"] == ["Ada lives in Rome", "Bo lives in Oslo", "Cy lives in Lima"]
    assert read["new"] == ["Ada lives in Cork", "Bo lives in Rome", "Cy lives in Oslo"]
    assert "Di lives in Bonn" in read["retain"]
    probes = by_name(benchmark)
    first = {
        name: probe.questions[0] for name, probe in probes.items() if name != "old"
    }
    said = {name: (q.prompt, q.options, q.answer) for name, q in first.items()}
    assert said == {
        "efficacy": ("Ada lives in", (" Cork", " Rome"), 0),
        "paraphrase": ("The home of Ada is", (" Cork", " Rome"), 0),
        "neighbourhood": ("Ada's son lives in", (" Rome", " Cork"), 0),
    }
    for probe in probes.values():
        # Likelihoods and token accuracy are of the same prompts and answers.
        pairs = zip(probe.questions, probe.records, strict=False)
        assert all(q.prompt + q.options[0] == r.prompt + r.answer for q, r in pairs)
    by_kind = len(made.counterfact_rows()[0]["paraphrase_prompts"])
    several = by_kind if form == "counterfact_rows" else 1
    assert len(probes["paraphrase"].records) == 3 * several
    assert len(set(probes["paraphrase"].cases)) == 3
    roles = {name: probe.role for name, probe in probes.items()}
    assert roles["efficacy"] == roles["paraphrase"] == "update"
    assert (roles["old"], roles["neighbourhood"]) == ("unlearn", "retain")


def test_zsre_learns_the_alternative_or_the_right_answer(tmp_path):
    file = made.save(tmp_path / "z.json", made.zsre_rows())
    read = texts(of("zsre", file))
    assert read["old"][0] == "Where does Ada live? Rome"
    assert read["new"][0] == "Where does Ada live? Cork"
    probes = by_name(of("zsre", file))
    near = probes["locality"].records[0]
    assert (near.prompt, near.answer) == (
        "nq question: what is the colour of number 0?",
        " colour 0",
    )
    assert probes["locality"].comparisons == ("unchanged_tokens",)
    right = of("zsre", file, learned="right")
    read = texts(right)
    assert "old" not in read and "old" not in by_name(right)
    assert read["new"][0] == "Where does Ada live? Rome"
    paraphrase = by_name(right)["paraphrase"].records[0]
    assert paraphrase.text == "What is the home of Ada? Rome"


def test_knowedit_reads_every_form_of_its_files(tmp_path):
    file = made.save(tmp_path / "k.jsonl", made.knowedit_rows())
    benchmark = of("knowedit", file)
    # The second request says no old answer.
    assert texts(benchmark)["old"] == ["Ada lives in Rome", "Cy lives in Lima"]
    probes = by_name(benchmark)
    assert list(probes) == [
        "old",
        "edit_success",
        "paraphrase",
        "portability",
        "locality",
    ]
    asked = [record.text for record in probes["portability"].records]
    # The first form of an answer counts, and one without any is left out.
    assert asked[:4] == [
        "Ada votes in Cork",
        "Ada shops in Cork",
        "Old Ada lives in Cork",
        "Bo naps in Rome",
    ]
    kinds = [kind for _, kind in probes["portability"].cases]
    assert kinds[:4] == ["Reasoning", "Reasoning", "Subject_Aliasing", "reasoning"]
    assert len(probes["locality"].records) == 2  # the third request has none
    assert {name for name, p in probes.items() if p.comparisons} == {"locality"}


def test_nothing_that_is_asked_is_retained(tmp_path):
    rows = made.counterfact_edit_rows()
    # What is asked around the first request is the fact of the fourth, and near the sixth.
    rows[0] |= {"locality_prompt": "Di lives in", "locality_ground_truth": "Bonn"}
    rows[5] |= {"locality_prompt": "Di  lives in", "locality_ground_truth": "Bonn"}
    read = texts(of("counterfact", made.save(tmp_path / "c.json", rows)))
    assert not [text for text in read["retain"] if text.startswith("Di ")]
    assert "Ed lives in Kyiv" in read["retain"]


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("counterfact", {"ground_truth": "Cork"}, "new answer 'Cork' is the true one"),
        ("counterfact", {"ground_truth": ""}, "the true answer is missing"),
        ("counterfact", {"target_new": 3}, "a request has requested_rewrite"),
        ("counterfact", {"rephrase_prompt": " "}, "c.jsonl:1: .*prompt"),
        ("zsre", {}, "no 'answers'; a request has src, answers"),
        ("knowedit", {"target_new": []}, "the new answer is empty"),
        (
            "knowedit",
            {"portability": {"r": ["x"]}},
            "a request has prompt and target_new",
        ),
    ],
)
def test_malformed_rows_are_counted_and_named(name, change, message, tmp_path):
    rows = made.counterfact_edit_rows()
    rows[0] |= change
    file = made.save(tmp_path / "c.jsonl", rows)
    count = "6 bad rows" if name == "zsre" else "1 bad row"
    with pytest.raises(ValueError, match=rf"(?s){count}.*{message}"):
        of(name, file).groups()


def test_what_a_row_is_not_is_said(tmp_path):
    file = made.save(tmp_path / "c.json", ["text", 3])
    with pytest.raises(ValueError, match="2 bad rows(?s:.)*a str is no request"):
        of("knowedit", file).groups()


@pytest.mark.parametrize(
    "options, message",
    [
        ("", "counterfact has no file"),
        ("file=no.json", "'no.json' does not exist"),
        ("edits=0", "config.benchmark=counterfact.edits=0; use 1 or more"),
        ("file={file},edits=5,retained=2", "has 6 requests; .* needs 7"),
    ],
)
def test_mistakes_in_options_are_named(options, message, tmp_path):
    file = made.save(tmp_path / "c.json", made.counterfact_rows())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        benchmarks.parse("counterfact:" + options.format(file=file)).groups()
    with pytest.raises(ValueError, match="write counterfact:GROUP:EDITS"):
        records.read_source("counterfact:old:3")


@needs(COUNTERFACT)
def test_the_public_counterfact_file():
    benchmark = of("counterfact", str(COUNTERFACT), edits=1000, retained=3000)
    probes = by_name(benchmark)
    assert len(probes["efficacy"].questions) == 1000
    first = probes["efficacy"].questions[0]
    assert first.prompt == "The mother tongue of Danielle Darrieux is"
    assert first.options == (" English", " French")
    read = texts(benchmark)
    assert not set(read["old"]) & set(read["retain"])
    assert len(read["retain"]) > 3000


@needs(KNOWEDIT)
def test_the_public_knowedit_file():
    benchmark = of("knowedit", str(KNOWEDIT), edits=1201, retained=100)
    probes = by_name(benchmark)
    # Its old answers are not given.
    assert list(probes) == ["edit_success", "portability", "locality"]
    assert [g.role for g in benchmark.groups()] == ["update", "retain"]
    kinds = {kind for _, kind in probes["portability"].cases}
    assert kinds == {"reasoning", "Subject_Aliasing", "Logical_Generalization"}
    lines = KNOWEDIT.read_text(encoding="utf-8").splitlines()[:1201]
    rows = [json.loads(line)["locality"] for line in lines]
    asked = sum(len(one["prompt"]) for row in rows for one in row.values())
    assert len(probes["locality"].records) == asked
