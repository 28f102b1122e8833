# SPDX-License-Identifier: Apache-2.0
"""What `configs/plan.py` says of a run's config on a slice.

The plan is a program of its own, run by a Python that has the package and libtpu: the
checkout's .venv, or the one that runs this. This file needs neither.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from launch.archive import ROOT
from launch.errors import LaunchError, WrongInput
from launch.gcloud import say
from launch.slices import Slice

INSTALL = (
    f"python3.12 -m venv {ROOT / '.venv'} && {ROOT / '.venv/bin/pip'} install "
    f"-e '{ROOT}[plan]'"
)
PUBLISHED = "models/"  # where configs of published models lie
_HAS = (
    "import importlib.util as u, sys; "
    "sys.exit(not all(map(u.find_spec, ('jax', 'flax', 'libtpu'))))"
)
_MODEL = (
    "import importlib, sys; "
    "print(importlib.import_module('configs.' + sys.argv[1]).get_config().get('model', ''))"
)


def python() -> str:
    """A Python that can plan.

    Raises:
      LaunchError: there is none.
    """
    for candidate in (ROOT / ".venv/bin/python", pathlib.Path(sys.executable)):
        if candidate.exists():
            code = subprocess.run(
                [candidate, "-c", _HAS], capture_output=True, check=False
            ).returncode
            if code == 0:
                return str(candidate)
    raise LaunchError(
        "what the config needs on the slice is not known: the package with the extra "
        f"'plan' is not installed here. Install it (Linux): {INSTALL}; or say "
        "--skip-plan."
    )


def config_of(flags: Sequence[str]) -> str:
    """The config that a run's flags name: NAME of --config=configs/NAME.py, or of
    --config=NAME; models/NAME of a published model."""
    named = [flag for flag in flags if re.match("--?config=", flag)]
    pattern = r"--?config=(?:(?:\./)?configs/([\w/]+)\.py|([\w/]+))"
    match = named and re.fullmatch(pattern, named[-1])
    if not match:
        raise WrongInput(
            "the run's flags have no --config=configs/NAME.py, which a plan needs; they "
            "stand after '--', as in: -- --config=configs/surgery.py --config.model=MODEL"
        )
    name = match[1] or match[2]
    if not (ROOT / "configs" / f"{name}.py").is_file():
        raise WrongInput(
            f"{named[-1]}: there is no configs/{name}.py in {ROOT}; the names are those of "
            "the files there, such as surgery or models/llama2_7b."
        )
    return name


def plan_flags(flags: Sequence[str], model: str) -> list[str]:
    """The flags of a plan of the run that `flags` start, on its own rows.

    Fields keep their values: those of the run are below `surgery` in a plan. Other flags
    (--workdir, --debug) do not matter to it.

    Args:
      flags: of the run.
      model: whose architecture is planned; "" is the one that the config is of.
    """
    found = [f"--config=configs/plan.py:{config_of(flags)}"]
    found += [f"--config.model={model}"] if model else []
    kept = False
    for flag in flags:
        match = re.match(r"--?config\.([\w.]+)", flag)
        if match and match[1] != "model":
            field = match[1].removeprefix("surgery.")
            found.append(f"--config.surgery.{field}{flag[match.end() :]}")
        elif kept and not flag.startswith("-"):
            found.append(flag)  # the value of the flag before
        kept = bool(match) and match[1] != "model" and "=" not in flag
    if not any(flag.startswith("--config.surgery.steps=") for flag in found):
        # Configs with 0 leave their number to the run; a step's program has none.
        found.append("--config.surgery.steps=1000")
    return found


def model_of(flags: Sequence[str], python_: str) -> str:
    """The model of a run: of its flags, or else of its config; "" of a config of a
    published model, whose architecture the plan knows by itself."""
    given = [f.split("=", 1)[1] for f in flags if re.match(r"--?config\.model=", f)]
    if given:
        return given[-1]
    if config_of(flags).startswith(PUBLISHED):
        return ""
    found = subprocess.run(
        [python_, "-c", _MODEL, config_of(flags).replace("/", ".")],
        capture_output=True,
        check=False,
        text=True,
        cwd=ROOT,
    )
    if not found.stdout.strip():
        raise WrongInput(
            f"configs/{config_of(flags)}.py has no model; give --config.model=MODEL "
            "after '--', or --plan-model=NAME (see jax_surgery/models/published.py)."
        )
    return found.stdout.strip()


def plan(
    flags: Sequence[str],
    chosen: Slice,
    num_slices: int,
    model: str = "",
    fast: bool = True,
) -> bool:
    """Plans a run on slices and says what comes out; whether it fits.

    Args:
      flags: of the run.
      model: whose architecture is planned; "" is the run's own.
      fast: memory alone, in under a minute; else time and other slices too.

    Raises:
      LaunchError: the plan failed; it has said why.
    """
    config_of(flags)  # what is wrong with the flags is said first
    runner = python()
    with tempfile.TemporaryDirectory() as workdir:
        command = [
            *[runner, "-m", "jax_surgery.main"],
            *plan_flags(flags, model or model_of(flags, runner)),
            f"--config.topology={chosen.name}",
            f"--config.num_slices={num_slices}",
            *(["--config.fast", "--config.neighbours=no"] if fast else []),
            f"--workdir={workdir}",
        ]
        say(f"planning on {num_slices} x {chosen.name}:")
        ran = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
        if ran.returncode:
            raise LaunchError(
                "the plan failed, see above. Where the model cannot be read from here, "
                "name one of its shape: --plan-model=llama2_7b; or say --skip-plan."
            )
        text = (pathlib.Path(workdir) / "results.json").read_text(encoding="utf-8")
    return bool(json.loads(text)["fits"])
