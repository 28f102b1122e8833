# SPDX-License-Identifier: Apache-2.0
"""MUSE and WMDP: their files as roles and probes, and the prompts that are published."""

import benchmark_files as made
import pytest

from jax_surgery import benchmarks
from jax_surgery.data import records

CONTEXT = 128


def muse(folder, **options):
    listed = "".join(f",{key}={value}" for key, value in options.items())
    return benchmarks.parse(f"muse:dir={folder}{listed}")


def test_muse_reads_texts_and_asks_as_its_authors_do(tmp_path):
    benchmark = muse(made.muse_folder(tmp_path))
    read = {g.name: records.read_role(g.data, g.name) for g in benchmark.groups()}
    assert [r.text for r in read["forget"]] == [
        "Ada lives in Rome by the sea",
        "Bo lives in Oslo by the sea",
    ]
    assert read["retain"][0].text == "Cy lives in Lima by the sea"
    probes = {probe.group: probe for probe in benchmark.probes(CONTEXT)}
    verbatim = probes["forget"].records[0]
    assert (verbatim.prompt, verbatim.answer) == ("Ada lives", " in Rome")
    asked = probes["retain_qa"].records[0]
    assert asked.prompt == (
        "Question: Where does Ed live?\nAnswer: Kyiv\n\n"
        "Question: Where does Flo live?\nAnswer: Cork\n\n"
        "Question: Where does Cy live?\nAnswer: "
    )
    assert asked.answer == "Lima" and not asked.question
    assert len(probes["privleak"].records) == len(probes["privleak"].others) == 3
    roles = {name: probe.role for name, probe in probes.items()}
    assert roles["forget_qa"] == roles["privleak"] == "unlearn"
    assert roles["retain_qa"] == "retain"


@pytest.mark.parametrize(
    "change, options, error, message",
    [
        (None, {"retain": "retain2"}, FileNotFoundError, "raw/retain2.json does not"),
        (("raw/forget.json", ["a text", 3]), {}, ValueError, "1 bad row .* named text"),
        (("raw/forget.json", []), {}, ValueError, "forget.json has no rows"),
        (
            ("knowmem/forget_qa.json", [{"question": "?"}, {"answer": "!"}]),
            {},
            ValueError,
            "2 bad rows(?s:.)*named question and answer",
        ),
    ],
)
def test_what_is_wrong_with_muse_is_named(tmp_path, change, options, error, message):
    folder = made.muse_folder(tmp_path)
    if change:
        made.save(folder / change[0], change[1])
    benchmark = muse(folder, **options)
    with pytest.raises(error, match=message):
        [records.read_role(g.data, g.name) for g in benchmark.groups()]
        benchmark.probes(CONTEXT)


def test_muse_needs_a_directory():
    with pytest.raises(ValueError, match="muse has no directory"):
        benchmarks.parse("muse").groups()


def test_wmdp_asks_four_options_zero_shot(tmp_path):
    folder = made.wmdp_folder(tmp_path)
    benchmark = benchmarks.parse(f"wmdp:dir={folder}")
    [bio, cyber] = benchmark.probes(CONTEXT)
    question = bio.questions[1]
    assert question.prompt == (
        "The following are multiple choice questions (with answers) about biology.\n\n"
        "Which town is of bio 1?\nA. Oslo\nB. Lima\nC. Bonn\nD. Kyiv\nAnswer:"
    )
    assert (question.options, question.answer) == ((" A", " B", " C", " D"), 1)
    assert bio.chance == 0.25 and cyber.chat == "never"
    read = {g.name: records.read_role(g.data, g.name) for g in benchmark.groups()}
    assert list(read) == ["bio", "bio_retain", "cyber", "cyber_retain"]
    assert read["bio"][0].text == "bio_remove_dataset says 0"
    target = benchmark.target(CONTEXT, 0)
    assert len(target.records) == 6
    assert [probe.group for probe in target.probes] == ["bio", "cyber"]


def test_wmdp_is_asked_where_there_are_no_corpora(tmp_path):
    folder = made.wmdp_folder(tmp_path)
    chem = benchmarks.parse(f"wmdp:dir={folder},domains=chem")
    assert not chem.groups()
    assert len(chem.probes(CONTEXT)[0].questions) == 3
    with pytest.raises(ValueError, match="no corpus to forget"):
        chem.target(CONTEXT, 0)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ("", ValueError, "wmdp has no directory"),
        ("dir={0},domains=bio+physics", ValueError, "'physics'; use bio.chem.cyber"),
        ("dir=nowhere", FileNotFoundError, "bio_questions.json does not exist"),
        ("dir={0}", ValueError, "2 bad rows in .*bio_questions"),
    ],
)
def test_what_is_wrong_with_wmdp_is_named(tmp_path, options, error, message):
    folder = made.wmdp_folder(tmp_path)
    rows = [
        {"question": "?", "choices": ["a", "b", "c"], "answer": 0},
        {"question": "?", "choices": ["a", "b", "c", "d"], "answer": 4},
    ]
    made.save(folder / "bio_questions.json", rows)
    with pytest.raises(error, match=message):
        benchmarks.parse("wmdp:" + options.format(folder)).probes(CONTEXT)
