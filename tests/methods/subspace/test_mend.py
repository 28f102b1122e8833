# SPDX-License-Identifier: Apache-2.0
"""Kept answers that rounds cost are given back, and targets stay away."""

import jax
import pytest
from subspace_run_cases import ROUNDS, work_of

from jax_surgery.methods.subspace.stage import Stage, copied
from jax_surgery.methods.subspace.stage_rounds import mend, run_rounds
from jax_surgery.methods.subspace.work import Work
from jax_surgery.train.loop import TrainingDiverged

OPTIMISED = True  # see conftest
pytestmark = pytest.mark.usefixtures("mesh")

TARGET, KEPT, NEAR = "people_a", ["dict_b", "dict_a"], {"dict_a"}
CARELESS = {"method": "subspace:discriminate=none,guard=0"}


def stage_of(own, folder, **fields) -> Stage:
    tasks = {"source": own["tasks.source"], "targets": TARGET}
    fields = {"rounds": {"number": ROUNDS}, "tasks": tasks} | fields
    work = work_of(own, Work, **fields)
    initial = work.model.params
    before = work.scores(initial)
    return Stage(work, initial, [TARGET], KEPT, NEAR, before, str(folder))


@pytest.fixture(scope="module")
def careless(own, tmp_path_factory):
    """A model that lost retained answers with the target's."""
    return run_rounds(stage_of(own, tmp_path_factory.mktemp("rounds"), **CARELESS))


@pytest.mark.slow
def test_rounds_that_diverge_are_told_to_take_smaller_steps(own, tmp_path):
    stage = stage_of(own, tmp_path, rounds={"number": 3, "step": 1e30, "stop": 0})
    with pytest.raises(TrainingDiverged, match="Lower config.rounds.step, and start"):
        run_rounds(stage)


def test_what_is_lost_are_texts_that_were_right(own, careless, tmp_path):
    stage = stage_of(own, tmp_path)
    assert not len(stage.retained_text.lost(stage.params))
    lost = stage.retained_text.lost(careless)
    documents = stage.retained_text.packer.documents
    # As many as are scored wrong now and were right, task by task.
    wrong = 0
    for name in KEPT:
        was, now = (
            stage.work.scores(p, [name])[name] for p in (stage.params, careless)
        )
        assert was.exact == 1.0
        wrong += round((1 - now.exact) * len(stage.work.texts[name].probe.documents))
    assert len(lost) == wrong > 3
    assert len(set(lost)) == len(lost) and max(lost) < len(documents)


@pytest.mark.slow
def test_lost_answers_come_back_and_the_target_does_not(own, careless, tmp_path):
    stage = stage_of(own, tmp_path)
    assert len(stage.retained_text.lost(careless)) and stage.goal.reached(careless)
    params = mend(stage, copied(careless))
    assert not len(stage.retained_text.lost(params)) and stage.goal.reached(params)
    passes = sorted(path.name for path in tmp_path.glob("mend_*"))
    assert passes == [f"mend_{i + 1}" for i in range(len(passes))] and passes
    # A pass is saved only where a checkpoint is due, by default every 50 rounds.
    assert not list(tmp_path.glob("mend_*/checkpoints/*"))
    # So a run that was stopped takes them again, and comes to the same.
    again = mend(stage_of(own, tmp_path), copied(careless))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params, again)
    assert all(jax.tree.leaves(same))


@pytest.mark.slow
def test_what_is_still_lost_is_told(own, careless, tmp_path, capsys):
    tiny = {"number": ROUNDS, "step": 1e-9}
    stage = stage_of(own, tmp_path, rounds=tiny, method="subspace:mend=1")
    count = len(stage.retained_text.lost(careless))
    mend(stage, copied(careless))
    said = capsys.readouterr().out
    assert (
        f"{count} of {len(stage.retained_text.packer.documents)} retained texts have"
        in said
    )
    assert f"{TARGET} is at config.rounds.stop" in said


def test_passes_are_saved_as_often_as_the_loop_says(own, careless, tmp_path):
    often = {"number": ROUNDS, "step": 1e-9}
    stage = stage_of(
        own,
        tmp_path,
        rounds=often,
        method="subspace:mend=3",
        loop={"checkpoint_every": 8},
    )
    mend(stage, copied(careless))
    saved = [bool(list(tmp_path.glob(f"mend_{i}/checkpoints/*"))) for i in (1, 2, 3)]
    assert saved == [False, True, False]  # of 4 rounds each
