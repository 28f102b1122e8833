# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: bit-equal, safe against donation, deletion of old ones, crashes."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

from jax_surgery.train.checkpoint import Checkpoints
from jax_surgery.train.metrics_file import MetricsWriter, read_metrics

PARAMS = {
    "layers": {"kernel": jnp.linspace(0, 1, 96).reshape(2, 6, 8) ** 3},
    "scale": jnp.arange(7, dtype=jnp.bfloat16) / 3,
}
STATE = (PARAMS, optax.adamw(1e-3).init(PARAMS), jnp.array(3, jnp.int32))
LOOP_STATE = {
    "stream": {"unlearn": {"epoch": 2, "grain": {"next": [1, [2, 3]], "rate": 0.1}}},
    "first_losses": [0.1, 2.5],
    "words": "Zoë",
}


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def test_round_trip_is_exact(tmp_path):
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        assert checkpoints.latest is None
        assert "No checkpoint" in checkpoints.describe()
        checkpoints.save(3, STATE, LOOP_STATE)
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        assert checkpoints.latest == 3
        assert f"step 3 is kept in {tmp_path}" in checkpoints.describe()
        step, state, loop_state = checkpoints.restore(
            jax.tree.map(jnp.zeros_like, STATE)
        )
    assert step == 3
    assert_same(state, STATE)
    assert loop_state == LOOP_STATE
    assert json.dumps(loop_state, sort_keys=True) == json.dumps(
        LOOP_STATE, sort_keys=True
    )


def test_relative_directories_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints("c", keep=1) as checkpoints:
        checkpoints.save(1, STATE, LOOP_STATE)
    assert (tmp_path / "c" / "1").is_dir()


def test_donating_the_state_while_it_is_written_changes_nothing(tmp_path):
    advance = jax.jit(
        functools.partial(jax.tree.map, lambda x: x + 1), donate_argnums=0
    )
    state = {"a": jnp.zeros((1500, 1500)), "b": jnp.zeros((500, 500))}
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(0, state, LOOP_STATE)
        for _ in range(20):
            state = advance(state)
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        restored = checkpoints.restore(state).state
    assert_same(restored, jax.tree.map(jnp.zeros_like, state))


def test_the_newest_stay_and_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        for step in (2, 4, 4, 6):
            checkpoints.save(step, STATE, LOOP_STATE)
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"4", "6"}


def test_an_unfinished_save_is_not_taken_for_a_checkpoint(tmp_path):
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        checkpoints.save(2, STATE, LOOP_STATE)
    # What a process killed while saving leaves behind.
    (tmp_path / "c" / "4.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        assert checkpoints.latest == 2
        # Repeated stops must not fill the disk.
        assert {p.name for p in (tmp_path / "c").iterdir()} == {"2"}
        assert_same(checkpoints.restore(STATE).state, STATE)
        checkpoints.save(4, STATE, LOOP_STATE)
    assert Checkpoints(tmp_path / "c", keep=2).latest == 4


def test_saving_does_not_ask_whether_to_stop(tmp_path, monkeypatch):
    """It would ask by its own step numbers, and JAX would lose count of the run's."""
    asked = []
    monkeypatch.setattr(
        multihost_utils,
        "reached_preemption_sync_point",
        lambda step: asked.append(step),
    )
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE, LOOP_STATE)
    assert checkpoints.latest == 2 and not asked


def test_metrics_go_on_after_the_step_that_is_resumed(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": jnp.float32(step / 3), "kl": 1})
    with MetricsWriter(tmp_path, after=3) as writer:
        writer.write(4, {"loss": 0.5})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[2] == {"step": 3, "loss": 1.0, "kl": 1.0}
    assert rows[3] == {"step": 4, "loss": 0.5}
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_damaged_lines_of_metrics_are_left_out_and_said(tmp_path, capsys):
    """Those of a file that was cut, overwritten or filled with zeros by a crash."""
    file = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "loss": 0.5}\n', b'{"step": 4, "loss": NaN}\n'
    bad = b'{"step": 2, "lo\n', b"\0\0\0\0\xff\n", b'["step"]\n', b'{"step": "3"}\n'
    file.write_bytes(good[0] + b"".join(bad) + b"\n" + good[1] + b'{"step": 5')
    assert [row["step"] for row in read_metrics(file)] == [1, 4]
    said = f"{file}: 4 damaged lines are left out, first line 2\n"
    assert capsys.readouterr().out == said
    with MetricsWriter(tmp_path, after=4) as writer:  # which writes whole lines alone
        writer.write(5, {"loss": 0.25})
    assert capsys.readouterr().out == said
    assert [row["step"] for row in read_metrics(file)] == [1, 4, 5]
    assert not capsys.readouterr().out
    file.write_bytes(b"")
    assert read_metrics(file) == []


def test_tensorboard_reads_the_same_numbers(tmp_path):
    from tensorboardX.proto import event_pb2

    with MetricsWriter(tmp_path) as writer:
        writer.write(7, {"loss": 0.25})
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, seen = file.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        seen += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    assert seen == [(7, "loss", pytest.approx(0.25))]
