# SPDX-License-Identifier: Apache-2.0
"""A workdir whose notes are damaged: it goes on with its own run, and with no other."""

import json
import pathlib

import pytest
from etils import epath
from settings_cases import settings_of

from jax_surgery.storage import files, lock
from jax_surgery.train import workdir as workdirs


def claim(workdir: pathlib.Path, **changes):
    return workdirs.claim(settings_of("evaluate", changes), str(workdir))


@pytest.fixture
def begun(tmp_path):
    """The workdir of a run of the model "a" that has begun."""
    workdir = tmp_path / "run"
    claim(workdir, model="a")
    (workdir / "metrics.jsonl").write_text("")
    return workdir


def cut(text: str) -> str:
    return text[: len(text) // 2]


DAMAGES = {
    "cut": cut,
    "empty": lambda text: "",
    "another kind": lambda text: "[1]",
    "zeros": lambda text: "\0" * len(text),
    "a changed value": lambda text: text.replace('"a"', '"b"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_config_is_written_again_for_the_run_that_it_was_of(
    begun, damage, capsys
):
    file = begun / workdirs.CONFIG_FILE
    whole = file.read_text()
    file.write_text(DAMAGES[damage](whole))
    with pytest.raises(
        ValueError, match="damaged, and identity.json|of another config"
    ):
        claim(begun, model="c")
    claim(begun, model="a")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{file} is damaged and is written again")
    assert file.read_text() == whole
    claim(begun, model="a")
    assert not capsys.readouterr().out


def test_a_lost_config_is_written_again(begun, capsys):
    (begun / workdirs.CONFIG_FILE).unlink()
    claim(begun, model="a")
    assert "is written again" in capsys.readouterr().out


def test_without_any_whole_note_nothing_goes_on(begun):
    for name in workdirs.NOTES:
        (begun / name).write_text(cut((begun / name).read_text()))
    with pytest.raises(ValueError, match="config.json is damaged, and identity.json"):
        claim(begun, model="a")


@pytest.mark.parametrize(
    "left",
    [
        (".identity.json.partial-0123abcd",),
        (".identity.json.partial-0123abcd", ".identity.json.partial-89ab0123"),
        ("identity.json", ".config.json.partial-0123abcd"),
        ("identity.json", "config.json", ".identity.json.partial-0123abcd"),
    ],
)
def test_a_run_that_was_killed_while_it_noted_itself_begins_anew(tmp_path, left):
    workdir = tmp_path / "run"
    claim(workdir, model="a")
    notes = {name: (workdir / name).read_text() for name in workdirs.NOTES}
    workdirs.release()
    for name in notes:
        (workdir / name).unlink()
    for name in left:
        (workdir / name).write_text(notes.get(name, '{"cu'))
    claim(workdir, model="b")
    assert set(files.names(workdir)) == {lock.LOCK, *workdirs.NOTES}
    assert json.loads((workdir / workdirs.CONFIG_FILE).read_text())["model"] == "b"
    workdirs.abandon(epath.Path(workdir))


def test_what_another_program_left_half_written_stays(tmp_path):
    workdir = tmp_path / "run"
    files.write_text(workdir / ".notes.txt.partial-0123abcd", "mine")
    with pytest.raises(ValueError, match="holds no run"):
        claim(workdir, model="a")
    assert files.names(workdir) == [".notes.txt.partial-0123abcd"]


def test_notes_alone_are_no_run(tmp_path):
    workdir = tmp_path / "run"
    claim(workdir, model="a")
    for name in workdirs.NOTES:
        (workdir / name).write_text("{")
    claim(workdir, model="b")  # it never started
    assert json.loads((workdir / workdirs.CONFIG_FILE).read_text())["model"] == "b"
    workdirs.abandon(claim(workdir, model="b"))
    assert not workdir.exists()
