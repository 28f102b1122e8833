# SPDX-License-Identifier: Apache-2.0
"""Compiler readers are loaded by the plan run, and by no other."""

import json
import pathlib
import subprocess
import sys

import jax_surgery.runs

CODE = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(f"jax_surgery.runs.{name}")
print(json.dumps([name for name in sys.modules if "jax_surgery.plan" in name]))
"""


def test_only_the_plan_run_loads_compiler_readers():
    runs = pathlib.Path(jax_surgery.runs.__path__[0]).glob("*.py")
    others = sorted({path.stem for path in runs} - {"__init__", "plan"})
    assert {"start", "surgery", "evaluate", "pretrain", "export", "patch"} < {*others}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *others],
        check=False,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout) == []
