# SPDX-License-Identifier: Apache-2.0
"""The last lines of every kind of run; each command in them can be run as it stands."""

import importlib
import shlex

import pytest
from ml_collections import config_flags
from settings_cases import settings_of

from jax_surgery import command_line
from jax_surgery.runs import endings, settings

# Runs after which nothing is to be started.
WITHOUT_MORE = ("plan", "evaluate", "lm_eval", "compare", "privacy")
FINISHED = {
    "surgery": ("model/config.json", "report/index.html", "results.json"),
    "unlearn": ("model/config.json", "edit.safetensors", "report/index.html"),
    "learn": ("model/config.json", "edit.safetensors", "report/index.html"),
    "tofu": ("model/config.json", "report/index.html"),
    "pretrain": ("model/config.json", "results.json"),
    "evaluate": ("results.json",),
    "lm_eval": ("results.json",),
    "attack": ("results.json", "report/index.html"),
    "plan": ("results.json",),
    "privacy": ("results.json", "report/index.html"),
    "compare": ("results.json", "report/index.html"),
    "export": ("jsonl/update.jsonl",),
}


def config_of_flags(words: list[str]):
    """The settings that a command line gives."""
    name = next(w for w in words if w.startswith("--config=")).partition("=")[2]
    config = importlib.import_module(f"configs.{name}").get_config()
    given = [w.removeprefix("--config.") for w in words if w.startswith("--config.")]
    flat = dict(word.split("=", 1) for word in given)
    kinds = {key: type(config_flags.config_path.get_value(key, config)) for key in flat}
    config.update_from_flattened_dict({k: kinds[k](v) for k, v in flat.items()})
    return settings.from_config(config)


def ended(tmp_path, monkeypatch, run, fields=None):
    """The lines, and the commands among them as words."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    for file in FINISHED[run]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    lines = endings.lines(settings_of(run, fields or {}), folder)
    return lines, [shlex.split(line) for line in lines if line.startswith("  ")]


@pytest.mark.parametrize("run", FINISHED)
def test_a_run_ends_with_its_files_and_commands_that_exist(tmp_path, monkeypatch, run):
    monkeypatch.setattr("sys.argv", ["jax-surgery", f"--config={run}"])
    fields = {"data.dir": "/tofu"} if run == "tofu" else {}
    lines, commands = ended(tmp_path, monkeypatch, run, fields)
    if "report/index.html" in FINISHED[run]:
        assert "report: runs/mine/report/index.html" in lines
    if "results.json" in FINISHED[run]:
        assert "results: runs/mine/results.json" in lines
    assert bool(commands) == (run not in WITHOUT_MORE)
    for words in commands:
        assert words[0].endswith("jax-surgery")
        assert config_of_flags(words)


def test_every_run_has_an_end():
    assert set(FINISHED) | {"edit", "benchmark"} == set(settings.RUNS)


def test_a_surgery_on_own_text_ends_with_the_attack_on_it(tmp_path, monkeypatch):
    own = {"data.unlearn": "a b.jsonl,c.jsonl,c.jsonl", "data.questions": ""}
    lines, [words] = ended(tmp_path, monkeypatch, "surgery", own)
    attack = config_of_flags(words)
    assert attack.run == "attack" and attack.model == "runs/mine"
    assert attack.data.relearn == "a b.jsonl,c.jsonl" and not attack.benchmark
    assert attack.data.retained == "embedded:retain,embedded:general"
    assert "To undo the run, use 'embedded' as before: it is unchanged." in lines


def test_a_surgery_that_only_learns_is_evaluated(tmp_path, monkeypatch):
    own = {"data.unlearn": "", "data.rows_unlearn": 0, "data.update": "new.jsonl"}
    _, [words] = ended(tmp_path, monkeypatch, "surgery", own | {"data.retain": ""})
    found = config_of_flags(words)
    assert found.run == "evaluate" and found.data.text == "new.jsonl"


def test_a_removal_ends_with_the_edit_that_can_be_rolled_back(tmp_path, monkeypatch):
    _, [applied, attacked] = ended(
        tmp_path, monkeypatch, "unlearn", {"tasks.targets": "dict_a;add"}
    )
    edit = config_of_flags(applied)
    assert (edit.action, edit.model) == ("apply", "suite")
    assert edit.edits == "runs/mine/edit.safetensors"
    assert "--workdir=runs/mine-applied" in applied
    assert config_of_flags(attacked).benchmark == "suite:targets=dict_a+add"


def test_after_one_attack_comes_one_of_the_other_kind(tmp_path, monkeypatch):
    given = ["--config=attack", "--config.model=m", "--config.attack=hints"]
    monkeypatch.setattr("sys.argv", ["main", *given, "--workdir=w"])
    _, [words] = ended(tmp_path, monkeypatch, "attack", {"attack": "hints"})
    assert words[: len(command_line.program())] == command_line.program()
    assert words[-3:-1] == given[:2] and "relearning" in words[-1]
