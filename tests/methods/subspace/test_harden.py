# SPDX-License-Identifier: Apache-2.0
"""Removal from relearned copies: what is trained again on one half stays away."""

import dataclasses

import pytest
from settings_cases import settings_of
from subspace_run_cases import ROUNDS, subject_of

from jax_surgery.data.probes import Probe
from jax_surgery.methods.subspace.harden import harden
from jax_surgery.methods.subspace.mend import mend
from jax_surgery.methods.subspace.operate import Pushes, Stage, copied, operate
from jax_surgery.methods.subspace.subject import kept_tasks
from jax_surgery.metrics import answer_accuracy
from jax_surgery.metrics.task_scores import drop, removed
from jax_surgery.models.model import Model
from jax_surgery.train import finetune

OPTIMISED = True  # see conftest

TASK, STEPS, RATE = "people_a", 10, 3e-4


@pytest.fixture(scope="module")
def stage(folder, own) -> Stage:
    """People to be removed, with all other tasks kept."""
    subject = subject_of(
        own,
        tasks={"source": own["tasks.source"], "targets": TASK, "records": 0},
        rounds={"number": ROUNDS},
        harden={"copies": 4, "steps": STEPS, "rate": RATE},
    )
    before = subject.scores(subject.params)
    kept = kept_tasks(before, subject.settings, 0)
    similar = {"people_b"}
    return Stage(subject, subject.params, [TASK], kept, similar, before, str(folder))


def comes_back(stage: Stage, params) -> float:
    """Accuracy on one half after a copy was trained on the other."""
    subject = stage.subject
    pushes = Pushes(stage, [TASK], up=True, guarded=False, half=0)
    params = copied(params)
    state, stream = finetune.init_adam(params), pushes.stream()
    compute = subject.settings.compute
    for _ in range(STEPS):
        batch = pushes.batch(next(stream))
        batch = batch.text.replace(weights_BT=-batch.token_weights_BT)
        params, state = finetune.adam_step(
            subject.config, compute, RATE, params, state, batch
        )
    other = subject.texts[TASK].documents[1::2]
    model = Model(params, subject.config, subject.tokenizer, compute)
    return answer_accuracy.METRIC(model, Probe("", 128, documents=tuple(other))).value


def test_what_is_hardened_comes_back_less(stage):
    plain = mend(stage, operate(stage))
    hardened = mend(
        dataclasses.replace(stage, directory=stage.directory + "/hardened"),
        harden(stage, copied(plain)),
    )
    for params in (plain, hardened):
        after = stage.subject.scores(params)
        assert removed(stage.before[TASK], after[TASK]) >= 0.96
        assert max(drop(stage.before[n], after[n]) for n in stage.kept) <= 0.05
    before = comes_back(stage, plain)
    assert before >= 0.25  # or there is nothing to show
    assert comes_back(stage, hardened) <= before / 2


def test_what_goes_beyond_the_stop_is_not_taken_back():
    fields = {"harden": {"copies": 2}, "rounds": {"alpha": 0}}
    with pytest.raises(ValueError, match="copies goes beyond it: use 1"):
        settings_of("unlearn", fields)


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
        settings_of("unlearn", {"harden": {"copies": 2}} | fields)
