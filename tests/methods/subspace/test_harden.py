# SPDX-License-Identifier: Apache-2.0
"""Removal from relearned copies: what is trained again on one half stays away."""

import dataclasses

import pytest
from settings_cases import settings_of
from subspace_run_cases import ROUNDS, work_of

from jax_surgery.data.probes import Probe
from jax_surgery.methods.subspace.harden import harden
from jax_surgery.methods.subspace.stage import Stage, copied
from jax_surgery.methods.subspace.stage_rounds import mend, run_rounds
from jax_surgery.methods.subspace.text import WeightedBatches
from jax_surgery.methods.subspace.work import Work, retained_groups
from jax_surgery.metrics import answer_accuracy
from jax_surgery.metrics.task_scores import drop, removed
from jax_surgery.train import finetune

OPTIMISED = True  # see conftest
pytestmark = pytest.mark.usefixtures("mesh")

TASK, STEPS, RATE = "people_a", 10, 3e-4


@pytest.fixture(scope="module")
def stage(folder, own) -> Stage:
    """People to be removed, with all other tasks kept."""
    work = work_of(
        own,
        Work,
        tasks={"source": own["tasks.source"], "targets": TASK},
        rounds={"number": ROUNDS},
        method="subspace:harden=4",
    )
    initial = work.model.params
    before = work.scores(initial)
    retained = retained_groups(before, [[TASK]], 0, learns=False)
    similar = {"people_b"}
    return Stage(work, initial, [TASK], retained, similar, before, str(folder))


def comes_back(stage: Stage, params) -> float:
    """Accuracy on one half after a copy was trained on the other."""
    work = stage.work
    batches = WeightedBatches(work, [TASK], learn=True, half=0)
    params = copied(params)
    state, stream = finetune.init_adam(params), batches.stream()
    config, compute = work.model.config, work.model.compute
    for _ in range(STEPS):
        batch = batches.batch(next(stream))
        batch = batch.text.replace(weights_BT=-batch.token_weights_BT)
        params, state = finetune.adam_step(config, compute, RATE, params, state, batch)
    other = work.texts[TASK].documents[1::2]
    model = work.model.with_params(params)
    return answer_accuracy.METRIC(model, Probe("", 128, documents=tuple(other))).value


@pytest.mark.slow
def test_what_is_hardened_comes_back_less(stage):
    plain = mend(stage, run_rounds(stage))
    hardened = mend(
        dataclasses.replace(stage, directory=stage.directory + "/hardened"),
        harden(stage, copied(plain)),
    )
    for params in (plain, hardened):
        after = stage.work.scores(params)
        assert removed(stage.before[TASK], after[TASK]) >= 0.96
        assert max(drop(stage.before[n], after[n]) for n in stage.retained) <= 0.05
    before = comes_back(stage, plain)
    assert before >= 0.25  # or there is nothing to show
    assert comes_back(stage, hardened) <= before / 2


def test_what_goes_beyond_the_stop_is_not_taken_back():
    fields = {"method": "subspace:harden=2", "rounds": {"alpha": 0}}
    with pytest.raises(ValueError, match="copies goes beyond it: use 1"):
        settings_of("unlearn", fields)


@pytest.mark.parametrize(
    "run, fields, words",
    [
        ("learn", {"method": "subspace:harden=2"}, "use harden=0 to learn"),
        ("unlearn", {"method": "subspace:harden=2,one_shot=True"}, "in rounds; use"),
        (
            "unlearn",
            {"method": "subspace:harden=2", "lora": {"rank": 2}},
            "use harden=0 with config.lora.rank",
        ),
    ],
)
def test_only_removals_in_rounds_are_hardened(run, fields, words):
    with pytest.raises(ValueError, match=f"subspace:harden=2.*{words}"):
        settings_of(run, fields)
