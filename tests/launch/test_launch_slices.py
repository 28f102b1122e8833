# SPDX-License-Identifier: Apache-2.0
"""The table of slices and prices, and that launch runs before anything is installed."""

import ast
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from jax_surgery.plan import topologies
from launch import cli, slices
from launch.errors import WrongInput

LAUNCH = pathlib.Path(slices.__file__).parent


def test_slices_are_those_that_a_plan_knows():
    assert [(s.name, s.chips) for s in slices.slices()] == [
        (s.name, s.chips) for s in topologies.slices()
    ]


@pytest.mark.parametrize(
    ("name", "accelerator", "workers", "runtime"),
    [
        ("v5e:4x4", "v5litepod-16", 4, "v2-alpha-tpuv5-lite"),
        ("v5e:2x4", "v5litepod-8", 1, "v2-alpha-tpuv5-lite"),
        ("v5p:4x4x4", "v5p-128", 16, "v2-alpha-tpuv5"),
        ("v4:2x2x1", "v4-8", 1, "tpu-ubuntu2204-base"),
        ("v6e:8x8", "v6e-64", 16, "v2-alpha-tpuv6e"),
    ],
)
def test_names_are_those_of_google(name, accelerator, workers, runtime):
    chosen = slices.find(name)
    assert (chosen.accelerator_type, chosen.workers) == (accelerator, workers)
    assert chosen.generation.runtime == runtime
    assert slices.find(accelerator) == chosen


def test_v5e_16_is_understood_and_what_is_not_is_answered():
    assert slices.find("v5e-16").name == "v5e:4x4"
    with pytest.raises(
        WrongInput, match=r"--slice=v5e:5x5 .* v5e:4x4 \(v5litepod-16\)"
    ):
        slices.find("v5e:5x5")
    with pytest.raises(WrongInput, match="use, say, v5e:4x4"):
        slices.find("h100")


def test_prices_are_of_a_day_and_a_region():
    assert slices.find("v5e:4x4").price("us-west4-a", spot=False) == 16 * 1.20
    said = slices.dollars(slices.find("v5e:4x4"), 2, "us-west4-a", spot=True)
    assert "$15.36 an hour spot in us-west4-a" in said and slices.PRICES_READ in said
    said = slices.dollars(slices.find("v4:2x2x1"), 1, "us-west4-a", spot=False)
    assert "not in the table" in said and "tpu/pricing" in said
    assert slices.find("v6e:2x4").price("southamerica-west1-a", spot=True) is None
    for of_generation in slices.PRICES.values():
        for on_demand, spot in of_generation.values():
            assert spot is None or 0 < spot < on_demand


def test_launch_needs_nothing_that_is_installed():
    for path in LAUNCH.glob("*.py"):
        source = path.read_text()
        # The Python of a laptop may be older than that of the package.
        tree = ast.parse(source, feature_version=(3, 9))
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                assert top == "launch" or top in sys.stdlib_module_names, path.name
        lines = source.splitlines()
        assert lines[0] == "# SPDX-License-Identifier: Apache-2.0", path.name
        assert len(lines) <= 400, path.name


def test_help_without_the_package():
    command = [sys.executable, "-S", "-m", "launch", "--help"]
    ran = subprocess.run(
        command, cwd=LAUNCH.parent, capture_output=True, text=True, check=True
    )
    for name in ("plan", "create", "setup", "run", "logs", "resume", "fetch", "delete"):
        assert f"  {name} " in ran.stdout


def test_the_shell_script_is_clean():
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([checker, LAUNCH / "worker.sh"], check=True)


def test_the_commands_of_the_page_are_understood():
    page = (LAUNCH / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^python3 -m launch (.+)$", page, re.MULTILINE)
    parsed = [
        cli._parser().parse_args(shlex.split(line.split(" -- ")[0])) for line in lines
    ]
    assert [args.command for args in parsed] == ["run", "resume", "fetch", "delete"]
    assert slices.find(parsed[0].slice).price(parsed[0].zone, parsed[0].spot)


def test_skypilot_takes_a_slice_of_the_table():
    text = (LAUNCH / "sky.yaml").read_text()
    chosen = slices.find(re.search(r"accelerators: tpu-(\S+)", text)[1])
    runtime = re.search(r"runtime_version: (\S+)", text)[1]
    assert runtime == chosen.generation.runtime
