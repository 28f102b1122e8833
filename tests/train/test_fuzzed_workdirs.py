# SPDX-License-Identifier: Apache-2.0
"""Whatever happened to a workdir, its run goes on from what was saved or is refused."""

import contextlib
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzed_files import copied, damage, files_of
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st
from settings_cases import settings_of

from jax_surgery.runs import start
from jax_surgery.train import curve
from jax_surgery.train import workdir as workdirs
from jax_surgery.train.checkpoint import Checkpoints
from jax_surgery.train.metrics_file import MetricsWriter, read_metrics

STATE = {"w": jnp.arange(12.0).reshape(3, 4), "n": jnp.array(3)}
STATES = {step: jax.tree.map(lambda x, s=step: x + s, STATE) for step in (10, 20)}
SETTINGS = settings_of("evaluate", {"model": "embedded"})


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> pathlib.Path:
    """The workdir of a run that was stopped at step 20."""
    folder = tmp_path_factory.mktemp("source") / "run"
    workdirs.claim(SETTINGS, str(folder))
    workdirs.release()  # A lock is no file that is damaged.
    with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
        for step, state in STATES.items():
            checkpoints.save(step, state, {"at": step})
    rows = [{"step": step, "loss": 1.5} for step in range(1, 23)]
    for name in ("metrics.jsonl", curve.CURVE):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "run"


def resumed(folder: pathlib.Path):
    """What a run does with its workdir before its first step."""
    workdirs.claim(SETTINGS, str(folder))
    with Checkpoints(folder / "checkpoints", keep=2) as checkpoints:
        found = checkpoints.restore(STATE)
    after = found.step if found else 0
    with MetricsWriter(folder, after=after):
        pass
    curve.read_curve(str(folder))
    return found, read_metrics(folder / "metrics.jsonl")


@settings(max_examples=15, phases=[p for p in Phase if p != Phase.shrink])
@given(st.data())
def test_any_damage_to_a_workdir_is_survived_or_refused(source, place, data):
    folder = copied(source, place)
    for _ in range(data.draw(st.integers(1, 3))):
        names = files_of(source)
        above = [name for name in names if "/" not in name]
        names = data.draw(st.sampled_from([above, names]))
        note(damage(data.draw, folder, names))
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            found, rows = resumed(folder)
    except (ValueError, FileNotFoundError) as error:
        assert start.is_expected(error), repr(error)
        return
    note(said.getvalue())
    if found is None:
        assert "no whole checkpoint is left" in said.getvalue() or not any(
            (folder / "checkpoints").glob("[0-9]*")
        )
        return
    # Never a state that no step has had, and metrics of no later step.
    for left, right in zip(
        jax.tree.leaves(found.state), jax.tree.leaves(STATES[found.step]), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    assert found.loop == {"at": found.step}
    assert all(row["step"] <= found.step for row in rows)
