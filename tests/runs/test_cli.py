# SPDX-License-Identifier: Apache-2.0
"""The command line as a user has it: subprocesses of `python -m jax_surgery.main`."""

import ast
import json
import os
import pathlib
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import tomllib

import jax
import numpy as np
import pytest
from settings_cases import settings_of

from jax_surgery import command_line
from jax_surgery.runs import settings, start
from jax_surgery.train import loop
from jax_surgery.train import workdir as workdirs

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 600  # enough to be stopped on the way

CONFIG = """
from configs import pretrain

def get_config():
    config = pretrain.get_config()
    small = dict(vocab_size=280, hidden_size=8, intermediate_size=8, num_layers=1,
                 num_heads=1, num_kv_heads=1, tokenizer_texts="")
    config.new_model.update(small)
    config.data.update(train="text.jsonl", rows=1, context=32, questions="")
    config.data.epochs = EPOCHS
    config.optimizer.warmup = 2
    config.loop.update(log_every=1, checkpoint_every=500, evaluate_every=0)
    return config
"""


def main(*arguments, cwd=ROOT, check=None):
    """Runs the program to its end; returns what it printed and how it ended."""
    command = [sys.executable, "-m", "jax_surgery.main", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if check is not None:
        assert done.returncode == check, done.stderr[-3000:]
    return done


@pytest.fixture
def folder(tmp_path):
    """A folder with a text and a config that trains a tiny model on it."""
    lines = [{"text": f"number {i} is {i * 7 % 13}"} for i in range(20)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "text.jsonl").write_text(text)
    # A row holds two or three lines, so that this gives about STEPS of them.
    (tmp_path / "tiny.py").write_text(CONFIG.replace("EPOCHS", f"{STEPS / 10:.1f}"))
    return tmp_path


HEAVY = """
import sys, importlib, pkgutil
import jax_surgery
{body}
heavy = [m for m in ("tensorflow", "torch", "torchvision") if m in sys.modules]
assert not heavy, heavy
"""
ALL_MODULES = """
for module in pkgutil.walk_packages(jax_surgery.__path__, "jax_surgery."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert error.name == "lm_eval", error  # an extra, which brings PyTorch with it
"""


def _seconds_of(arguments: list[str]) -> float:
    """CPU seconds of a subprocess that ends well; the clock depends on the load."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_importing_needs_no_tensorflow_and_no_pytorch():
    assert _seconds_of(["-c", HEAVY.format(body="")]) < 3
    _seconds_of(["-c", HEAVY.format(body=ALL_MODULES)])


def test_starting_a_run_imports_quickly():
    body = "import jax_surgery.runs.surgery, jax_surgery.runs.start"
    assert _seconds_of(["-c", HEAVY.format(body=body)]) < 4


def test_help_is_quick_and_names_the_flags_and_the_configs():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = main("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 3
    assert "--config" in done.stdout
    assert "--workdir" in done.stdout
    assert done.returncode == 0
    for path in (ROOT / "configs").rglob("*.py"):
        if "def get_config" in path.read_text() and path.stem != "__init__":
            name = path.relative_to(ROOT / "configs").with_suffix("").as_posix()
            [line] = re.findall(rf"^  {name}  +(\S.*)", done.stdout, re.MULTILINE)
            said = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
            assert said == line  # which is whole in one line
    assert max(map(len, done.stdout.splitlines())) < 80
    body = "sys.argv = ['main', '--help']; import runpy\ntry:\n"
    body += "    runpy.run_module('jax_surgery.main', run_name='__main__')\n"
    body += "except SystemExit: pass\nassert 'jax' not in sys.modules"
    _seconds_of(["-c", HEAVY.format(body=body)])


def test_bad_input_is_one_message_and_leaves_nothing(tmp_path):
    """Whole processes; tests/runs/test_early_checks.py has many more."""
    workdir = tmp_path / "run"
    arguments = ["--config=configs/pretrain.py", "--config.data.train=no.jsonl"]
    done = main(*arguments, f"--workdir={workdir}", check=2)
    assert done.stderr.startswith("error: ")
    assert "'no.jsonl' does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert not workdir.exists()


@pytest.fixture
def more_configs(tmp_path, monkeypatch):
    """Configs in a folder of a folder, and a file that is none."""
    folder = tmp_path / "installed" / "configs"
    (folder / "models").mkdir(parents=True)
    (folder / "surgery.py").write_text('"""One.\n\nMore."""\ndef get_config(): ...\n')
    own = '"""Of 7 B."""\nfrom configs.surgery import get_config\n'
    (folder / "models" / "llama2_7b.py").write_text(own)
    (folder / "models" / "shared.py").write_text("rows = 3\n")
    monkeypatch.setattr(command_line, "CONFIGS", folder)
    return folder


def test_configs_that_are_added_are_found_in_folders_too(more_configs):
    assert command_line.configs() == {"models/llama2_7b": "Of 7 B.", "surgery": "One."}


@pytest.mark.parametrize(
    ("named", "file"),
    [
        ("surgery", "surgery.py"),
        ("surgery.py", "surgery.py"),
        ("configs/surgery.py", "surgery.py"),
        ("surgery:large", "surgery.py:large"),
        ("models/llama2_7b", "models/llama2_7b.py"),
        ("configs/models/llama2_7b.py", "models/llama2_7b.py"),
    ],
)
def test_a_config_is_named_with_or_without_its_folder(
    more_configs, named, file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert command_line.config_file(named) == f"{more_configs}/{file}"


def test_a_file_of_the_users_own_comes_first(more_configs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own.py", "surgery.py"):
        (tmp_path / name).write_text("")
        assert command_line.config_file(name) == name
        assert (
            command_line.config_file(f"{tmp_path}/{name}:x") == f"{tmp_path}/{name}:x"
        )
    assert command_line.config_file("surgery") == f"{more_configs}/surgery.py"


@pytest.mark.parametrize(
    ("named", "near"), [("surgry", "surgery"), ("models/lama2_7b", "models/llama2_7b")]
)
def test_a_mistyped_config_is_told_its_neighbour(more_configs, capsys, named, near):
    with pytest.raises(SystemExit) as ended:
        command_line.config_file(named)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --config={named} is neither a file nor")
    assert f"did you mean --config={near}?" in said
    assert "The configs are models/llama2_7b, surgery;" in said


def script(arguments, cwd, check=False):
    """What the console script does, wherever it is started."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = table["jax-surgery"].partition(":")
    code = f"import sys; sys.argv[0] = '{cwd}/bin/jax-surgery'\n"
    code += f"from {module} import {function}; {function}()"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=check,
    )


def test_the_console_script_works_from_any_folder(folder):
    """It names itself in the commands that it prints."""
    shown = script(["--help"], folder)
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: bin/jax-surgery --config=CONFIG")
    done = script(["--config=edit", "--config.action=shw", "--workdir=w"], folder)
    assert done.returncode == 2 and "config.action='shw'" in done.stderr
    none = script([], folder)
    assert none.returncode == 2
    assert none.stderr.startswith("error: --config is not given: name one of attack, ")


@pytest.mark.slow
def test_a_run_that_is_piped_writes_whole_lines_and_ends_with_commands(folder):
    done = script(["--config=tiny.py", "--workdir=w"], folder, check=True)
    assert "\r" not in done.stderr + done.stdout
    said = r"^pretrain: step (\d+) of \1, .* in all, "
    assert re.search(said, done.stderr, re.MULTILINE)
    lines = done.stdout.splitlines()
    assert "model: w/model" in lines and "results: w/results.json" in lines
    words = shlex.split(lines[-1])
    assert words[:3] == ["bin/jax-surgery", "--config=evaluate", "--config.model=w"]
    again = script(words[1:], folder, check=True)
    assert "nats per token" in again.stdout


def checkpoint(workdir):
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(workdir / "checkpoints") as checkpointer:
        return checkpointer.latest.step, checkpointer.load_checkpointables()


def losses(workdir):
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").open()]
    return [(row["step"], row["loss"], row["epochs_update"]) for row in rows]


def stop_on_the_way(folder, workdir) -> str:
    """Starts a run, presses Ctrl-C after its first steps; returns what it said."""
    arguments = ["--config=tiny.py", f"--workdir={workdir}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jax_surgery.main", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = folder / workdir / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors[-3000:]
    return errors


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_go_on_and_going_on_is_bit_equal(folder):
    said = stop_on_the_way(folder, "parts")
    assert "which is saved. Go on with:" in said
    assert "Traceback" not in said
    stopped_at, _ = checkpoint(folder / "parts")
    assert f"stopped at step {stopped_at} of" in said

    # The very line that was printed.
    command = shlex.split(said.strip().splitlines()[-1])
    assert command[:3] == [sys.executable, "-m", "jax_surgery.main"]
    main(*command[3:], cwd=folder, check=0)
    main("--config=tiny.py", "--workdir=whole", cwd=folder, check=0)
    (step, resumed), (same_step, whole) = (
        checkpoint(folder / name) for name in ("parts", "whole")
    )
    assert step == same_step > stopped_at
    assert resumed["loop"] == whole["loop"]
    for left, right in zip(
        jax.tree.leaves(resumed["state"]), jax.tree.leaves(whole["state"]), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    assert losses(folder / "parts") == losses(folder / "whole")


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "run"


def claim(workdir, **changes):
    return workdirs.claim(settings_of("evaluate", changes), str(workdir))


def test_a_workdir_belongs_to_one_config(workdir):
    claim(workdir, model="a")
    (workdir / "metrics.jsonl").write_text("")
    claim(workdir, model="a")
    with pytest.raises(ValueError, match="config.model: 'a' there, 'b' now\n") as error:
        claim(workdir, model="b")
    assert "config.data" not in str(error.value)
    (workdir / workdirs.FINISHED_FILE).write_text("{}")
    with pytest.raises(ValueError, match="holds this run, which is finished"):
        claim(workdir, model="a")


def test_a_run_that_never_began_leaves_its_workdir_to_the_next(workdir):
    claim(workdir, model="a")
    claim(workdir, model="b")
    assert json.loads((workdir / workdirs.CONFIG_FILE).read_text())["model"] == "b"


def test_a_folder_with_other_files_is_no_workdir(workdir):
    workdir.mkdir()
    (workdir / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        claim(workdir)
    assert [p.name for p in workdir.iterdir()] == ["thesis.tex"]


def test_a_workdir_that_cannot_be_made_is_named(workdir):
    workdir.write_text("a file")
    with pytest.raises(
        ValueError, match="cannot be written .*; give a folder that is writable"
    ):
        claim(workdir / "below")


def test_errors_of_this_package_are_messages_and_those_of_others_are_not(workdir):
    with pytest.raises(ValueError) as ours:
        settings.from_config({"run": "surgeri"})
    with pytest.raises(ValueError) as theirs:
        np.zeros(3).reshape(2)
    assert start.is_expected(ours.value)
    assert start.is_expected(loop.Interrupted(""))
    assert not start.is_expected(theirs.value)
    assert not start.is_expected(KeyError("x"))
