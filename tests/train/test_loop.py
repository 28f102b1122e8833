# SPDX-License-Identifier: Apache-2.0
"""The loop on a tiny regression: resuming, stopping, what it writes and says."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_settings import plain_loop

from jax_surgery.data.batch import padding
from jax_surgery.data.stream import one_pass
from jax_surgery.train import loop
from jax_surgery.train import metrics_file as metrics
from jax_surgery.train.checkpoint import Checkpoints

OPTIMIZER = optax.adam(0.1)
WIDTH = 300  # large enough that an unfinished asynchronous copy would show


class CountingStream:
    """Batches that depend on all numbers drawn so far."""

    real_tokens = 12  # of a batch

    def __init__(self):
        self.drawn = 0

    def __next__(self):
        rng = np.random.default_rng(self.drawn)
        self.drawn += 1
        return {"x_BD": rng.normal(size=(4, WIDTH)).astype(np.float32)}

    @property
    def epochs(self):
        return {"update": self.drawn / 2}

    def get_state(self):
        return {"drawn": self.drawn}

    def set_state(self, state):
        self.drawn = state["drawn"]


def make_step(loss_scale=lambda step: 1.0):
    @jax.jit
    def step(state, batch):
        params, opt_state, number = state

        def loss_fn(params):
            return jnp.mean((batch["x_BD"] @ params["w_DD"] - 1) ** 2) / WIDTH

        loss, gradients = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = OPTIMIZER.update(gradients, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, number + 1), {"update_ce": loss, "number": number}

    donating = jax.jit(step, donate_argnums=0)

    def one_step(state, batch):
        state, metrics = donating(state, batch)
        return state, metrics | {
            "update_ce": metrics["update_ce"] * loss_scale(int(metrics.pop("number")))
        }

    return one_step


def start():
    params = {"w_DD": jnp.zeros((WIDTH, WIDTH))}
    return params, OPTIMIZER.init(params), jnp.zeros((), jnp.int32)


def run(
    directory,
    *,
    steps=7,
    step_fn=None,
    stream=None,
    callbacks=(),
    save_last=True,
    advice=loop.LOWER_RATE,
    collapsed=None,
    **settings,
):
    return loop.train(
        step_fn or make_step(),
        start(),
        stream or CountingStream(),
        steps=steps,
        directory=str(directory),
        settings=plain_loop(**settings),
        callbacks=callbacks,
        title="test",
        save_last=save_last,
        advice=advice,
        collapsed=collapsed,
    )


def assert_equal(tree, other):
    for left, right in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)


def losses(rows):
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def stop_at(step, signal_number=signal.SIGINT):
    """A callback that presses Ctrl-C before a step."""

    def press(number, state):
        if number == step:
            os.kill(os.getpid(), signal_number)
        return state

    return loop.Callback(1, press)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, checkpoint_every=1), metrics.read_metrics(
        folder / "metrics.jsonl"
    )


@pytest.mark.parametrize(
    ("checkpoint_every", "number"),
    [(0, signal.SIGINT), (1, signal.SIGINT), (3, signal.SIGTERM)],
)
def test_stopped_and_resumed_is_bit_equal(
    tmp_path, uninterrupted, checkpoint_every, number
):
    state, rows = uninterrupted
    old_handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(loop.Interrupted, match="step 5 of 7, which is saved"):
        run(tmp_path, checkpoint_every=checkpoint_every, callbacks=[stop_at(4, number)])
    assert old_handlers == [
        signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)
    ]
    stream = CountingStream()
    resumed = run(tmp_path, checkpoint_every=checkpoint_every, stream=stream)
    assert_equal(resumed, state)
    assert stream.drawn == 7
    assert losses(metrics.read_metrics(tmp_path / "metrics.jsonl")) == losses(rows)


def test_a_crash_between_checkpoints_repeats_the_steps_since(tmp_path, uninterrupted):
    def crash(number, state):
        if number == 5:
            raise OSError("power cut")
        return state

    with pytest.raises(OSError, match="power cut"):
        run(tmp_path, checkpoint_every=2, callbacks=[loop.Callback(1, crash)])
    # The line that the process was writing when it died.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "upda')
    assert_equal(run(tmp_path, checkpoint_every=2), uninterrupted[0])
    steps = [r["step"] for r in metrics.read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_a_callback_that_changes_the_state_resumes_bit_equal(tmp_path):
    def halve(number, state):
        return (jax.tree.map(lambda x: x / 2, state[0]), *state[1:])

    callbacks = [loop.Callback(2, halve)]
    whole = run(tmp_path / "whole", callbacks=callbacks)
    with pytest.raises(loop.Interrupted):
        run(tmp_path / "parts", callbacks=[*callbacks, stop_at(3)])
    assert_equal(run(tmp_path / "parts", callbacks=callbacks), whole)


@pytest.mark.parametrize(
    ("at", "said"), [(0, "before the first of 7"), (3, "at step 3")]
)
def test_a_long_callback_stops_in_its_midst_and_is_called_again(tmp_path, at, said):
    """As statistics or an evaluation; what was not saved is not changed by it."""
    pressed, rows = [], padding(6, 4)

    def reads(number, state):
        for place, _ in enumerate(one_pass(rows, 2)):
            if number == at and place == 1 and not pressed:
                pressed.append(os.kill(os.getpid(), signal.SIGTERM))
            assert place < 2 or len(pressed) != 1, "went on after the signal"
        return (jax.tree.map(lambda x: x / 2, state[0]), *state[1:])

    callbacks = [loop.Callback(3, reads)]
    with pytest.raises(loop.Interrupted, match=f"stopped {said}"):
        run(tmp_path / "parts", callbacks=callbacks)
    pressed.append(None)
    whole = run(tmp_path / "whole", callbacks=callbacks)
    assert_equal(run(tmp_path / "parts", callbacks=callbacks), whole)


@pytest.mark.parametrize(("every", "called"), [(0, [0]), (3, [0, 3, 6])])
def test_callbacks_are_called_before_their_steps(tmp_path, every, called):
    seen = []

    def note(step, state):
        assert int(state[2]) == step
        seen.append(step)
        return state

    run(tmp_path, callbacks=[loop.Callback(every, note)])
    assert seen == called


def test_a_finished_run_makes_no_more_steps(tmp_path, uninterrupted):
    run(tmp_path)

    def no_step(state, batch):
        raise AssertionError("a step was made")

    assert_equal(run(tmp_path, step_fn=no_step), uninterrupted[0])


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    scale = lambda step: float("nan") if step == 4 else 1.0
    with pytest.raises(loop.TrainingDiverged) as error:
        run(tmp_path, step_fn=make_step(scale), checkpoint_every=2)
    text = str(error.value)
    assert "update_ce is nan at step 5" in text
    assert "Lower config.optimizer.learning_rate, and start" in text
    assert f"checkpoint of step 4 is kept in {tmp_path}" in text
    assert Checkpoints(tmp_path / "checkpoints", 2).latest == 4


def test_an_update_that_is_not_finite_is_never_saved(tmp_path):
    step = make_step()

    def overflow(state, batch):
        state, values = step(state, batch)
        return (jax.tree.map(lambda x: x * jnp.inf, state[0]), *state[1:]), values

    with pytest.raises(loop.TrainingDiverged, match=r"step 1 is not finite.*No check"):
        run(tmp_path, step_fn=overflow, checkpoint_every=1)
    assert Checkpoints(tmp_path / "checkpoints", 2).latest is None


def test_an_exploding_loss_stops_with_the_numbers(tmp_path):
    scale = lambda step: 1e9 if step == 6 else 1.0
    message = r"update_ce is .* at step 7, over 20 \(20 times its first"
    with pytest.raises(loop.TrainingDiverged, match=message):
        run(tmp_path, step_fn=make_step(scale), steps=9)


def test_a_growing_unlearn_term_is_no_explosion(tmp_path):
    guard = loop._LossGuard(str, "")
    for step in range(20):
        guard.check(step, {"unlearn_ce": 10.0**step, "update_ce": 1.0, "loss": -1.0})


@pytest.mark.parametrize("term", ["update_ce", "retain_kl", "retain_ce", "retain_loss"])
def test_every_term_that_must_stay_small_is_watched(term):
    guard = loop._LossGuard(str, "")
    for step in range(loop.FIRST_STEPS):
        guard.check(step, {"unlearn_ce": 1.0, term: 0.1, "loss": 0.1})
    # The unlearn term falls at least as fast as this one rises.
    with pytest.raises(loop.TrainingDiverged, match=f"exploded: {term} is 30 at step"):
        guard.check(loop.FIRST_STEPS, {"unlearn_ce": 90.0, term: 30.0, "loss": -60.0})


def test_a_model_that_collapsed_is_never_saved(tmp_path):
    """It is asked about before every save, and the checkpoint before stays."""
    says = lambda state: "the model has collapsed" if int(state[2]) >= 4 else ""
    message = r"the model has collapsed \(step 4\).*checkpoint of step 2 is kept in"
    with pytest.raises(loop.TrainingDiverged, match=message):
        run(tmp_path, checkpoint_every=2, collapsed=says)
    assert Checkpoints(tmp_path / "checkpoints", 2).latest == 2
    # Also after the last step of a run that saves nothing.
    with pytest.raises(loop.TrainingDiverged, match=r"collapsed \(step 7\).*No check"):
        run(tmp_path / "none", checkpoint_every=0, save_last=False, collapsed=says)


def test_a_term_that_rises_makes_the_loop_ask_whether_the_model_collapsed(tmp_path):
    asked = []

    def collapsed(state):
        asked.append(int(state[2]))
        return "the model has collapsed" if len(asked) == 2 else ""

    exact = {5: 4.0, 6: 5.0, 7: 9.0}  # nats, of steps 6, 7 and 8
    made = make_step()

    def step(state, batch):
        number = int(state[2])
        state, _ = made(state, batch)
        return state, {"update_ce": jnp.float32(exact.get(number, 0.1))}

    with pytest.raises(loop.TrainingDiverged, match=r"collapsed \(step 9\)"):
        run(tmp_path, step_fn=step, steps=20, checkpoint_every=0, collapsed=collapsed)
    assert asked == [7, 9]  # metrics are read one step late


def test_a_diverging_run_is_advised_by_its_caller(tmp_path):
    step = make_step(lambda number: float("nan"))
    with pytest.raises(loop.TrainingDiverged, match=r"Raise beta, and start again"):
        run(tmp_path, step_fn=step, advice="Raise beta")


def test_what_is_written(tmp_path):
    run(tmp_path, log_every=3)
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [3, 6, 7]  # and the last step
    assert [row["epochs_update"] for row in rows] == [1.5, 3.0, 3.5]
    assert set(rows[0]) == {"step", "update_ce", "tokens_per_second", "epochs_update"}
    assert list((tmp_path / "tensorboard").iterdir())


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run(tmp_path, checkpoint_every=1, keep=2)
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert kept == {"6", "7"}


def test_a_short_loop_is_saved_at_its_cadence_and_when_it_is_stopped_alone(
    tmp_path, uninterrupted
):
    kept = lambda name: Checkpoints(tmp_path / name / "checkpoints", 9).latest
    for name, every, saved in (("none", 0, None), ("every 3", 3, 6)):
        state = run(tmp_path / name, checkpoint_every=every, save_last=False)
        assert_equal(state, uninterrupted[0])
        assert kept(name) == saved
    with pytest.raises(loop.Interrupted, match="step 5 of 7, which is saved"):
        run(
            tmp_path / "cut",
            checkpoint_every=0,
            save_last=False,
            callbacks=[stop_at(4)],
        )
    assert kept("cut") == 5
    resumed = run(tmp_path / "cut", checkpoint_every=0, save_last=False)
    assert_equal(resumed, uninterrupted[0])
    # What is not saved is checked all the same.
    step = make_step()

    def overflow(state, batch):
        state, values = step(state, batch)
        return (jax.tree.map(lambda x: x * jnp.inf, state[0]), *state[1:]), values

    with pytest.raises(loop.TrainingDiverged, match="step 1 is not finite"):
        run(tmp_path / "bad", step_fn=overflow, steps=1, save_last=False)
