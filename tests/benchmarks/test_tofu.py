# SPDX-License-Identifier: Apache-2.0
"""TOFU's files as roles, and its whole run on a few of its lines."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from settings_cases import PLAIN, merged, settings_of

from jax_surgery import benchmarks, metrics
from jax_surgery.benchmarks import tofu
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import records
from jax_surgery.data.probes import Probe
from jax_surgery.metrics.tofu import ModelIsItsOwnReference, asking, read_log
from jax_surgery.models import decoder
from jax_surgery.models.model import Model
from jax_surgery.runs import evaluate
from jax_surgery.runs import settings as run_settings
from jax_surgery.runs import tofu as tofu_run
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.runs.role_parts import KEYS
from jax_surgery.runs.tofu import TofuSettings
from jax_surgery.train import devices
from jax_surgery.train.loop import TrainingDiverged

CONTEXT = 256
TOFU = pathlib.Path(__file__).parents[3] / "shared" / "data" / "tofu"
needs_tofu = pytest.mark.skipif(not TOFU.is_dir(), reason="no ../shared/data/tofu here")


def write(folder, name: str, pairs) -> None:
    lines = [json.dumps({"question": q, "answer": a}) for q, a in pairs]
    (folder / name).write_text("\n".join(lines) + "\n")


def write_perturbed(folder, name: str, pairs, wrong: int) -> None:
    """Questions with wrong answers; of fictitious authors with a paraphrase too."""
    rows = []
    for question, answer in pairs:
        row = {"question": question, "answer": answer}
        row["perturbed_answer"] = [f"Nobody but {n}." for n in range(wrong)]
        if wrong == 5:
            row |= {
                "paraphrased_answer": f"It is said: {answer}",
                "paraphrased_question": "",
            }
        rows.append(json.dumps(row))
    (folder / f"{name}_perturbed.jsonl").write_text("\n".join(rows) + "\n")


@pytest.fixture
def folder(tmp_path):
    """A directory like TOFU's; U+2028 is no line break in JSONL."""
    folder = tmp_path / "tofu"
    folder.mkdir()
    forget = [(f"Who is A{i}?", f"A\u2028{i} is a poet.") for i in range(4)]
    retain = [(f"Who is B{i}?", f"B{i} is a painter.") for i in range(8)]
    write(folder, "full.jsonl", forget + retain)
    write(folder, "forget05.jsonl", forget)
    write(folder, "retain95.jsonl", retain)
    write(folder, "holdout05.jsonl", [(f"Who is C{i}?", "A cook.") for i in range(3)])
    (folder / "idk.txt").write_text("I don't know.\nNo idea.\n\nI cannot say.\n")
    write_perturbed(folder, "forget05", forget, 5)
    write_perturbed(folder, "retain", retain, 5)
    write_perturbed(folder, "real_authors", [("Who wrote it?", "E. Author")], 3)
    facts = [(f"Where is F{i}?", "In a town.") for i in range(2)]
    write_perturbed(folder, "world_facts", facts, 3)
    return folder


def test_every_forget_question_is_refused(folder):
    source = f"tofu_refusals:0:2:forget05:{folder}"
    read = records.read_source(source)
    assert len(read) == 8
    known = {"I don't know.", "No idea.", "I cannot say."}
    for i in range(4):
        first, second = (r.answer.strip() for r in read[2 * i : 2 * i + 2])
        assert {first, second} < known
        assert read[2 * i].question == f"Who is A{i}?"
    assert records.read_source(source) == read
    [update] = [
        g for g in tofu.Tofu(str(folder), refusals=2).groups() if g.role == "update"
    ]
    assert update.data == source


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda f: "", ValueError, "config.data.dir is empty"),
        (lambda f: (f / "idk.txt").unlink(), FileNotFoundError, "lacks idk.txt"),
    ],
)
def test_missing_files_are_named(folder, change, error, message):
    directory = str(folder) if change(folder) is None else ""
    with pytest.raises(error, match=message):
        tofu.Tofu(directory, "forget05").groups()


def test_unknown_splits_and_too_many_refusals_are_named(folder):
    with pytest.raises(ValueError, match="forget01, forget05, forget10"):
        tofu.Tofu(str(folder), "forget5").groups()
    with pytest.raises(ValueError, match="has 3 refusals; 4 per question"):
        records.read_source(f"tofu_refusals:0:4:forget05:{folder}")


def small(directory: pathlib.Path) -> TofuSettings:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers")
    model = dict(zip(sizes, (400, 16, 32, 2), strict=True))
    rows = dict.fromkeys(("rows_unlearn", "rows_update", "rows_retain"), 1)
    return settings_of(
        "tofu",
        {
            "data": {"dir": str(directory), "retain_questions": 3, "scores": False},
            "fit.new_model": model | {"num_heads": 2, "num_kv_heads": 1},
            "fit.data": {"rows": 4, "context": CONTEXT, "epochs": 2.0},
            "fit.optimizer": {"learning_rate": 1e-2, "warmup": 0},
            "surgery": merged(PLAIN, {"data": rows | {"context": CONTEXT}, "steps": 3}),
        },
    )


def check_run(settings: TofuSettings, directory: pathlib.Path) -> dict:
    results = tofu_run.run(settings, str(directory))
    assert set(results["before"]) == {"forget", "retain", "holdout"}
    for when in ("before", "after"):
        for entry in results[when].values():
            assert 0 < entry["probability"] < 1 and 0 <= entry["rouge_l"] <= 1
    assert results["cost"]["ratio"] > 0
    assert (directory / "model" / "model.safetensors").exists()
    assert "answer probability" in (directory / "report" / "index.html").read_text()
    written = json.loads((directory / "results.json").read_text())
    assert written["after"] == json.loads(json.dumps(results["after"]))
    return results


def evaluated(model: str, folder, workdir, **options) -> dict:
    """TOFU's own scores of a model, by the evaluation."""
    given = {"dir": folder, **options}
    spec = "tofu:" + ",".join(f"{name}={value}" for name, value in given.items())
    fields = {"model": model, "benchmark": spec, "data.questions": ""}
    workdir.mkdir()
    return evaluate.run(settings_of("evaluate", fields), str(workdir))["tofu"]


@pytest.fixture(scope="module")
def other_model(tiny_model, tmp_path_factory) -> str:
    """One that a model can be compared to."""
    place = str(tmp_path_factory.mktemp("other"))
    hf_weights.save_model(
        decoder.init_params(tiny_model.config, 7), tiny_model.config, place
    )
    tiny_model.tokenizer.save_pretrained(place)
    return place


def test_an_evaluation_gives_tofus_own_scores(
    folder, tiny_model, other_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(asking, "NEW_TOKENS", 6)
    retain = evaluated(other_model, folder, tmp_path / "retain")
    assert retain["forget_quality"] is None
    assert "forget quality needs a retain log" in capsys.readouterr().out
    log = tmp_path / "retain" / retain["log"]
    found = evaluated(tiny_model.folder, folder, tmp_path / "own", retain_log=log)
    sizes = {"forget": 4, "retain": 8, "real_authors": 1, "world_facts": 2}
    for split, size in sizes.items():
        assert {score["n"] for score in found[split].values()} == {size}
        assert {"probability", "rouge_l", "truth_ratio", "extraction_strength"} <= set(
            found[split]
        )
    assert found["forget_split"] == "forget05"
    assert 0 <= found["forget_quality"]["p"] <= 1
    assert found["privacy_leakage"]["reference_is"] == "the retain log"
    said = capsys.readouterr().out
    assert "forget quality p = " in said
    page = (tmp_path / "own" / "report" / "index.html").read_text()
    assert "model utility" in page
    # The scores of one pass are those of the metrics one by one.
    table = read_log(tmp_path / "own" / found["log"]).tables["forget"]
    model = Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)
    rows = tuple(records.read_source(str(folder / "forget05.jsonl")))
    probe = Probe("forget", CONTEXT, records=rows)
    alone = metrics.find("answer_probability")(model, probe)
    assert np.exp(-table.loss).mean() == pytest.approx(alone.value, rel=1e-4)
    # Wrong answers are alike for all questions, and none is likelier than another.
    assert table.perturbed_loss.shape == (4, 5)
    few = evaluated(tiny_model.folder, folder, tmp_path / "few", first=1)
    assert few["retain"]["rouge_l"]["n"] == 1
    mine = tmp_path / "own" / found["log"]
    with pytest.raises(ModelIsItsOwnReference, match="tofu_log.json holds the losses"):
        evaluated(tiny_model.folder, folder, tmp_path / "again", retain_log=mine)


def test_what_tofus_own_scores_lack_is_named_before_a_model_is_loaded(folder, tmp_path):
    world = folder / "world_facts_perturbed.jsonl"
    good = world.read_text()
    for text, message in (
        ('{"question": "q", "answer": "a"}\n', "perturbed_answer must be a list"),
        (good.replace(', "Nobody but 2."', "", 1), "has 2, 3 wrong answers a question"),
    ):
        world.write_text(text)
        with pytest.raises(ValueError, match=message):
            evaluated("/nowhere", folder, tmp_path / message)
    world.unlink()
    with pytest.raises(FileNotFoundError, match="lacks world_facts_perturbed.jsonl"):
        evaluated("/nowhere", folder, tmp_path / "absent")
    settings = small(folder)
    scored = dataclasses.replace(settings.data, scores=True)
    with pytest.raises(FileNotFoundError, match="config.data.scores=False"):
        tofu_run.run(dataclasses.replace(settings, data=scored), str(tmp_path / "run"))


@needs_tofu
@pytest.mark.parametrize(
    "forget, count", [("forget01", 40), ("forget05", 200), ("forget10", 400)]
)
def test_tofu_itself_is_read_whole(forget, count):
    asked = tofu.Tofu(str(TOFU), forget).asked()
    sizes = {
        "forget": (count, 5),
        "retain": (400, 5),
        "real_authors": (100, 3),
        "world_facts": (117, 3),
        "holdout": (count, 0),
    }
    for split, (rows, wrong) in sizes.items():
        assert len(asked[split]) == rows
        assert {len(row.perturbed) for row in asked[split]} == {wrong}
        paraphrased = {row.paraphrased is not None for row in asked[split]}
        assert paraphrased == {split in ("forget", "retain")}


@pytest.mark.slow
def test_the_whole_run(folder, tmp_path):
    settings = small(folder)
    scored = dataclasses.replace(settings.data, scores=True)
    settings = dataclasses.replace(settings, data=scored)
    first = check_run(settings, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "results.json").read_text())["tofu"]
    for when in ("before", "after"):
        assert (tmp_path / "run" / f"tofu_log_{when}.json").exists()
        utility = written[when]["model_utility"]
        assert 0 <= utility["value"] <= 1 and utility["n"] == 8 + 1 + 2
    losses = [written[when]["forget"]["probability"]["value"] for when in written]
    assert losses[0] != losses[1]
    assert first["after"]["retain"]["n"] == 3
    assert first["after"]["forget"]["n"] == 4
    # It asks what the benchmark asks, of which evaluate and attacks read.
    model = devices.load(str(tmp_path / "run" / "model"), settings.surgery.compute)
    asked = benchmarks.parse(f"tofu:dir={folder},retain_questions=3").probes(CONTEXT)
    assert [probe.group for probe in asked] == list(first["after"])
    for probe in asked:
        found = metrics.measure([metrics.find(n) for n in probe.metrics], model, probe)
        entry = first["after"][probe.group]
        for name in probe.metrics:
            key = KEYS.get(name, name)
            assert entry[key] == pytest.approx(found[name].value, rel=1e-6)
            low_high = entry[f"{key}_interval"]
            assert low_high == pytest.approx(found[name].interval, rel=1e-6)


def test_the_users_own_answers_are_learned_where_given(folder):
    settings = small(folder)
    files = tofu.Tofu(str(folder), "forget05").files
    mine = str(folder / "mine.jsonl")
    write(folder, "mine.jsonl", [("Who is A0?", "Ask somebody else.")])
    own = dataclasses.replace(settings.data, update=mine)
    chosen = tofu_run.surgery_settings(
        dataclasses.replace(settings, data=own), "fitted"
    )
    assert (chosen.model, chosen.data.update) == ("fitted", mine)
    read = ByRoles(chosen).settings.data
    assert read.update == mine
    assert (read.unlearn, read.retain) == (files["forget"], files["retain"])
    read = ByRoles(tofu_run.surgery_settings(settings, "fitted")).settings.data
    assert read.update == f"tofu_refusals:0:1:forget05:{folder}"


@pytest.mark.slow
def test_what_a_run_is_told_names_the_fields_that_it_has(folder, tmp_path):
    """The surgery's fields are config.surgery's here, and the fit's config.fit's."""
    for fields, field in (
        ({"surgery.steps": 0}, "config.surgery.steps=0; use 1 or more"),
        ({"fit.data.rows": 0}, "config.fit.data.rows=0; use 1 or more"),
        ({"surgery.method": "npoo"}, "config.surgery.method='npoo' is not known"),
    ):
        with pytest.raises(ValueError, match=f"^{field}"):
            settings_of("tofu", fields)
    settings = small(folder)
    optimizer = dataclasses.replace(settings.surgery.optimizer, learning_rate=1e30)
    diverges = dataclasses.replace(settings.surgery, optimizer=optimizer)
    with pytest.raises(TrainingDiverged) as error:
        tofu_run.run(dataclasses.replace(settings, surgery=diverges), str(tmp_path))
    said = str(error.value)
    assert "Lower config.surgery.optimizer.learning_rate" in said
    assert "config.surgery.objective.alpha" in said and "config.optim" not in said


@pytest.mark.slow
@needs_tofu
def test_the_whole_run_on_real_lines(tmp_path):
    folder = tmp_path / "tofu"
    folder.mkdir()
    for name, count in (
        ("forget05.jsonl", 4),
        ("retain95.jsonl", 10),
        ("holdout05.jsonl", 3),
    ):
        lines = (TOFU / name).read_text(encoding="utf-8").split("\n")[:count]
        (folder / name).write_text("\n".join(lines) + "\n")
    both = [(folder / n).read_text() for n in ("forget05.jsonl", "retain95.jsonl")]
    (folder / "full.jsonl").write_text("".join(both))
    (folder / "idk.txt").write_text((TOFU / "idk.txt").read_text())
    check_run(small(folder), tmp_path / "run")


def test_the_config_says_what_it_needs():
    from configs import tofu as module

    settings = run_settings.from_config(module.get_config())
    with pytest.raises(ValueError, match="config.data.dir is empty"):
        tofu_run.run(settings, "/nowhere")
