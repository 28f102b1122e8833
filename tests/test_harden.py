# SPDX-License-Identifier: Apache-2.0
"""Removal from relearned copies: what is trained again on one half stays away."""

import jax
import jax.numpy as jnp
import optax
import pytest
import subspace_run_cases as cases
from subspace_run_cases import NO_REPORT, go, subject_of

from jax_surgery.evaluation.answers import score_answers
from jax_surgery.runs import settings as run_settings
from jax_surgery.runs.subspace.operate import Pushes, Stage
from jax_surgery.surgery.subspace.relearn import relearn_step

TASK, STEPS, RATE = "people_a", 10, 3e-4


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("tasks")
    return {
        "tasks.source": cases.tasks_file(folder),
        "tasks.targets": TASK,
        **NO_REPORT,
    }


def comes_back(workdir, own) -> float:
    """Accuracy on one half after a model was trained on the other."""
    subject = subject_of(own, model=str(workdir / "model"))
    stage = Stage(subject, subject.params, [TASK], [], set(), {}, "")
    pushes = Pushes(stage, [TASK], up=True, guarded=False, half=0)
    params = jax.tree.map(jnp.copy, subject.params)
    state, stream = optax.adam(RATE).init(params), pushes.stream()
    compute = subject.settings.compute
    for _ in range(STEPS):
        batch = pushes.batch(next(stream))
        params, state = relearn_step(
            subject.config, compute, RATE, params, state, batch
        )
    other = subject.texts[TASK].documents[1::2]
    return score_answers(params, subject.config, other, 128, compute).accuracy


def test_what_is_hardened_comes_back_less(own, tmp_path):
    plain = go(tmp_path / "plain", **own)
    harder = {"harden.copies": 4, "harden.steps": STEPS, "harden.rate": RATE}
    hardened = go(tmp_path / "hardened", **own, **harder)
    for results in (plain, hardened):
        tasks = results["tasks"]
        assert tasks[TASK]["removed"] >= 0.96
        kept = [task["drop"] for task in tasks.values() if task["drop"] is not None]
        assert max(kept) <= 0.05
    before = comes_back(tmp_path / "plain", own)
    assert before >= 0.25  # or there is nothing to show
    assert comes_back(tmp_path / "hardened", own) <= before / 2


@pytest.mark.parametrize(
    "fields",
    [
        {"run": "learn"},
        {"rounds": {"mode": "one_shot"}},
        {"lora": {"rank": 2}, "optimizer": {"name": "adamw"}},
    ],
)
def test_only_removals_in_rounds_are_hardened(fields):
    with pytest.raises(ValueError, match="harden.copies=2"):
        run_settings.from_config({"run": "unlearn", "harden": {"copies": 2}} | fields)
