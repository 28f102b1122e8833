# SPDX-License-Identifier: Apache-2.0
"""What a plan is asked of a run's flags, and that a plan takes them."""

import importlib
import json
import pathlib
import re
import shutil
import subprocess

import pytest
from launch_cloud import RUN
from ml_collections import ConfigDict

from launch import cli, estimate, slices
from launch.errors import LaunchError, WrongInput

ROOT = pathlib.Path(__file__).parents[2]


def has_field(config, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(config, ConfigDict) or name not in config:
            return False
        config = config[name]
    return True


def test_fields_of_a_run_are_those_of_its_plan():
    flags = ["--config=configs/surgery.py", "--config.model=gs://b/m", "--debug"]
    flags += ["--config.data.context=1024", "--workdir=gs://b/r"]
    flags += ["--config.compute.dtype", "bfloat16", "--config.retain.complete"]
    planned = estimate.plan_flags(flags, "llama2_7b")
    assert planned == [
        "--config=configs/plan.py:surgery",
        "--config.model=llama2_7b",
        "--config.surgery.data.context=1024",
        *("--config.surgery.compute.dtype", "bfloat16"),
        "--config.surgery.retain.complete",
        "--config.surgery.steps=1000",
    ]
    assert estimate.model_of(flags, "") == "gs://b/m"


def test_a_plan_has_these_fields():
    for name, field in [("surgery", "data.context"), ("tofu", "surgery.steps")]:
        flags = [f"--config=configs/{name}.py", f"--config.{field}=8"]
        planned = estimate.plan_flags(flags, "llama2_7b")
        config = importlib.import_module("configs.plan").get_config(name)
        fields = [re.match(r"--config\.([\w.]+)", f) for f in planned]
        assert all(has_field(config, f[1]) for f in fields if f)


def test_flags_without_a_config_of_this_checkout_are_refused():
    for flags in ([], ["--config=mine.py"], ["--config.model=x"]):
        with pytest.raises(WrongInput, match="no --config=configs/NAME.py"):
            estimate.config_of(flags)


def test_without_the_package_it_says_how_to_install_it(monkeypatch, tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "surgery.py").touch()
    monkeypatch.setattr(estimate, "ROOT", tmp_path)
    monkeypatch.setattr(estimate.sys, "executable", str(bare))
    with pytest.raises(LaunchError, match=r"pip install .*\[plan\].*--skip-plan"):
        estimate.plan(RUN, slices.find("v5e:4x4"), 1)


def _plans(monkeypatch, tmp_path, fits):
    """A Python that writes a plan's results and notes its flags."""
    program = tmp_path / "python"
    results = json.dumps({"fits": fits})
    program.write_text(
        "#!/bin/bash\n"
        '[[ "$1" == -c ]] && { echo embedded; exit 0; }\n'
        f'printf "%s\\n" "$@" >{tmp_path}/flags\n'
        'for flag; do [[ "$flag" == --workdir=* ]] && '
        f"echo '{results}' >\"${{flag#--workdir=}}/results.json\"; done\nexit 0\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(estimate, "python", lambda: str(program))
    return tmp_path / "flags"


@pytest.mark.parametrize("fits", [True, False])
def test_the_plan_of_a_run_is_asked_on_its_slices(monkeypatch, tmp_path, fits):
    noted = _plans(monkeypatch, tmp_path, fits)
    words = ["plan", "--slice=v5litepod-16", "--num-slices=2", "--fast", "--", *RUN]
    assert cli.main(words) == (0 if fits else 1)
    flags = noted.read_text().splitlines()
    for flag in (
        *("--config=configs/plan.py:surgery", "--config.model=embedded"),
        *("--config.topology=v5e:4x4", "--config.num_slices=2", "--config.fast"),
        "--config.surgery.data.unlearn=a b.jsonl",
    ):
        assert flag in flags


@pytest.mark.slow
def test_a_real_plan(capfd):
    flags = ["--config=configs/paper_formula.py", "--config.data.context=256"]
    words = ["plan", "--slice=v5e:2x2", "--fast", "--plan-model=embedded", "--", *flags]
    assert cli.main(words) == 0
    assert "v5e:2x2" in capfd.readouterr().out


@pytest.mark.slow
def test_the_real_gcloud_takes_every_command(tmp_path, capfd, monkeypatch):
    """Its own parser reads them; nothing is called."""
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")
    state, flags = f"--state={tmp_path}", ["--slice=v5e:4x4", "--zone=us-west4-a"]
    made = {"name": "llama", "zone": "us-west4-a", "slice": "v5e:4x4", "project": "p"}
    made |= {"spot": True, "runtime": "x", "mark": "m", "command": RUN, "ready": True}
    (tmp_path / "llama.json").write_text(json.dumps(made))
    for words in (
        ["run", "new", *flags, "--num-slices=2", "--project=p", "--spot", "--", *RUN],
        *(["setup", "llama"], ["logs", "llama"], ["resume", "llama"]),
        *(["fetch", "llama"], ["delete", "llama"]),
    ):
        assert cli.main([state, "--dry-run", *words]) == 0
    out = capfd.readouterr().out.splitlines()
    lines = sorted({line for line in out if line.startswith("gcloud")})
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([{"command_string": line} for line in lines]))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "config"))
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"]
    ran = subprocess.run(lint, capture_output=True, text=True, check=True)
    judged = json.loads(ran.stdout)
    assert len(judged) == len(lines) > 8
    wrong = [
        (j["command_string"], j["error_message"]) for j in judged if not j["success"]
    ]
    assert not wrong


def test_a_config_that_does_not_exist_is_refused_before_google_is_asked(
    tmp_path, monkeypatch, capsys
):
    """Also without a plan, which would find it: slices cost from the start."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no gcloud
    words = ["--state", str(tmp_path / "state"), "run", "mine", "--slice=v5e:4x4"]
    words += ["--zone=us-west4-a", "--skip-plan", "--yes", "--"]
    for named in ("nope", "configs/nope.py", "models/nope"):
        assert cli.main([*words, f"--config={named}", "--workdir=gs://b/r"]) == 2
        said = capsys.readouterr().err
        assert "there is no configs/" in said and f"--config={named}" in said
    assert not (tmp_path / "state").exists()


def test_a_config_of_a_published_model_is_planned_as_it_is():
    """Its architecture is the plan's own: the hub is not asked for it."""
    for named in ("configs/models/llama2_7b.py", "models/llama2_7b"):
        flags = [f"--config={named}", "--config.steps=10"]
        assert estimate.model_of(flags, "no python") == ""
        planned = estimate.plan_flags(flags, "")
        assert planned[0] == "--config=configs/plan.py:models/llama2_7b"
        assert not any(flag.startswith("--config.model") for flag in planned)
    given = [*flags, "--config.model=gs://b/m"]
    assert estimate.model_of(given, "no python") == "gs://b/m"
