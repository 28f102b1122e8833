# SPDX-License-Identifier: Apache-2.0
"""The run on edit files: every action, the command that undoes it, and the errors."""

import shlex

import numpy as np
import pytest
import small_checkpoints
from safetensors.numpy import load_file
from settings_cases import config_of
from small_checkpoints import contents, edit_of

from jax_surgery import command_line
from jax_surgery.edits import algebra, edit_file
from jax_surgery.runs import start
from jax_surgery.runs.patch import ACTIONS, EditSettings

UP = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture
def files(tmp_path):
    """A model, and two edits of it."""
    small_checkpoints.save(
        tmp_path / "model", "bfloat16", shard=small_checkpoints.SHARD
    )
    for name, seed in (("u", 0), ("v", 1)):
        made = edit_of(tmp_path / "model", seed=seed)
        edit_file.save_edit(made, tmp_path / f"{name}.safetensors")
    return tmp_path


def go(workdir, **fields):
    """As the command line does."""
    start.start(config_of("edit", fields), str(workdir))


def printed_fields(text: str) -> tuple[dict[str, str], str]:
    """The config and the workdir of the command that a run printed."""
    words = shlex.split(text.strip().splitlines()[-1])
    assert words[:4] == [*command_line.program(), "--config=edit"]
    pairs = dict(word.lstrip("-").split("=", 1) for word in words[4:])
    workdir = pairs.pop("workdir")
    return {key.removeprefix("config."): value for key, value in pairs.items()}, workdir


def test_apply_and_rollback_print_the_command_that_undoes_them(files, capsys):
    go(
        files / "applied",
        action="apply",
        edits=str(files / "u.safetensors"),
        model=str(files / "model"),
    )
    said = capsys.readouterr().out
    assert "can restore what was removed: do not publish either" in said
    undo, workdir = printed_fields(said)
    assert undo["action"] == "rollback"
    go(workdir, **undo)
    assert contents(f"{workdir}/model") == contents(files / "model")
    again, twice = printed_fields(capsys.readouterr().out)
    assert again["action"] == "apply"
    go(twice, **again)
    assert contents(f"{twice}/model") == contents(files / "applied" / "model")


def test_a_run_that_was_stopped_before_its_end_goes_on(files, monkeypatch):
    """Model and rollback are there, and what says that they are finished is not."""
    fields = {
        "action": "apply",
        "edits": str(files / "u.safetensors"),
        "model": str(files / "model"),
    }

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(start.Interrupted):
        patched.setattr(edit_file, "save_edit", stop)
        go(files / "applied", **fields)
    assert (files / "applied" / "rollback.safetensors").exists()
    written = contents(files / "applied" / "model")
    go(files / "applied", **fields)
    assert contents(files / "applied" / "model") == written
    assert (files / "applied" / "edit.safetensors").exists()


def test_the_edited_model_carries_nothing_of_the_edit(files):
    """Its folder has the same files as before, and none that could undo the edit."""
    u, model = str(files / "u.safetensors"), str(files / "model")
    go(files / "applied", action="apply", edits=u, model=model)
    assert set(contents(files / "applied" / "model")) == set(contents(model))
    beside = {path.name for path in (files / "applied").iterdir()}
    wanted = {"model", "rollback.safetensors", "edit.safetensors"}
    assert beside == wanted | {"config.json", "finished.json", "identity.json"}


def test_an_applied_edit_composes_with_the_next_and_is_not_applied_twice(files):
    u, model = str(files / "u.safetensors"), str(files / "model")
    go(files / "one", action="apply", edits=u, model=model)
    wrote, made = str(files / "one" / "edit.safetensors"), str(files / "one" / "model")
    assert edit_file.load_edit(wrote).digest == edit_file.load_edit(u).digest
    edit_file.save_edit(edit_of(files / "one" / "model"), files / "w.safetensors")
    w = str(files / "w.safetensors")
    go(files / "uw", action="compose", edits=f"{wrote},{w}")
    with pytest.raises(ValueError, match="neither the model of"):  # u records no result
        go(files / "no", action="compose", edits=f"{u},{w}")
    with pytest.raises(ValueError, match="it has been applied already"):
        go(files / "no", action="apply", edits=wrote, model=made)
    assert not (files / "no").exists()


def test_apply_at_a_scale_is_apply_of_the_scaled_edit(files):
    model = str(files / "model")
    u = str(files / "u.safetensors")
    go(files / "half", action="scale", edits=u, scale=0.5)
    half = str(files / "half" / "edit.safetensors")
    go(files / "a", action="apply", edits=u, model=model, scale=0.5)
    go(files / "b", action="apply", edits=half, model=model)
    assert contents(files / "a" / "model") == contents(files / "b" / "model")
    assert edit_file.load_edit(half).scale == 0.5


def test_compose_writes_the_sum_and_its_parts(files, capsys):
    both = ",".join(str(files / f"{name}.safetensors") for name in "uv")
    go(files / "uv", action="compose", edits=both, rank=3)
    found = edit_file.load_edit(files / "uv" / "edit.safetensors")
    parts = [edit_file.load_edit(name) for name in both.split(",")]
    wanted = algebra.compose(parts, 3)
    assert found.digest == wanted.digest
    assert found.base == wanted.base
    assert set(found.provenance) == {"composed of", "rank", "created", "versions"}
    assert str(files / "uv" / "edit.safetensors") in capsys.readouterr().out
    read = load_file(files / "uv" / "edit.safetensors")
    np.testing.assert_array_equal(read[f"{UP}.a"], wanted.factors[UP][0])


def test_show_prints_the_edit(files, capsys):
    go(files / "shown", edits=str(files / "u.safetensors"))
    shown = edit_file.load_edit(files / "u.safetensors")
    said = capsys.readouterr().out
    assert shown.base.model[:12] in said
    assert '"task": "add"' in said
    row = next(line for line in said.splitlines() if UP in line)
    rank, norm, _, *shape = row.split()
    assert (rank, shape) == ("2", ["[64,", "32]"])
    assert float(norm) == pytest.approx(shown.norms[UP], rel=1e-3)


def test_files_that_are_not_copied_are_named(files, capsys):
    (files / "model" / "pytorch_model.bin").write_bytes(b"x")
    (files / "model" / ".cache").mkdir()
    u, model = str(files / "u.safetensors"), str(files / "model")
    go(files / "applied", action="apply", edits=u, model=model)
    assert (
        "not copied: .cache/, pytorch_model.bin (other files" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action": "apply", "edits": "{u}"}, "config.model is empty: action 'apply'"),
        ({"action": "apply", "model": "{m}"}, "config.edits is empty: action 'apply'"),
        ({"action": "rollback", "edits": "{u}"}, "config.model is empty: action 'r"),
        ({"action": "rollback", "model": "{m}"}, "config.edits is empty: action 'r"),
        (
            {"action": "scale", "edits": "{u},{u}"},
            "names 2 files, .* takes one. Combine",
        ),
        ({"edits": "{u}", "rank": 2}, "config.rank=2: action 'show' does not use it"),
        ({"action": "rollback", "model": "{m}", "scale": 2.0}, "does not use it"),
        ({"action": "compose", "edits": "{u}", "model": "{m}"}, "config.model='.*does"),
        ({"action": "apply", "edits": "no", "model": "{m}"}, "no does not exist"),
        ({"action": "apply", "edits": "{u}", "model": "./no"}, "'./no' does not exist"),
        (
            {"action": "rollback", "edits": "{u}", "model": "{m}"},
            "is an edit without the corrections .* give the rollback.safetensors",
        ),
        ({"action": "aply"}, "config.action='aply'; choose one of apply, rollback"),
        ({"action": "compose", "rank": -1}, "config.rank=-1; use 0 or more"),
        (
            {"action": "scale", "scale": float("nan")},
            "config.scale=nan must be a finite",
        ),
    ],
)
def test_errors_name_the_fix_and_leave_no_workdir(files, fields, message):
    names = {"u": files / "u.safetensors", "m": files / "model"}
    given = {
        key: value.format(**names) if isinstance(value, str) else value
        for key, value in fields.items()
    }
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        go(files / "out", **given)
    assert start.is_expected(error.value)
    assert not (files / "out").exists()


def test_another_model_is_refused_and_leaves_no_workdir(files):
    small_checkpoints.save(files / "other", "bfloat16", seed=3)
    u, other = str(files / "u.safetensors"), str(files / "other")
    with pytest.raises(ValueError, match="is not the model that the edit was made for"):
        go(files / "out", action="apply", edits=u, model=other)
    assert not (files / "out").exists()


def test_every_field_has_an_action_and_model_names_are_resolved(files):
    fields = {f for used in ACTIONS.values() for f in used}
    assert fields | {"run", "action"} == set(EditSettings.__dataclass_fields__)
    u = str(files / "u.safetensors")
    with pytest.raises(ValueError, match="another architecture"):
        go(files / "out", action="apply", edits=u, model="embedded")
