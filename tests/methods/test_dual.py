# SPDX-License-Identifier: Apache-2.0
"""The dual variable of primal-dual unlearning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objective_cases import CONFIG, documents, make_batch
from plain_settings import plain_loop, plain_objective

from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream
from jax_surgery.methods import parse
from jax_surgery.methods.dual import DualSteps, WithDual
from jax_surgery.methods.loss import Loss
from jax_surgery.models import decoder
from jax_surgery.train import step as steps
from jax_surgery.train.loop import Callback, train
from jax_surgery.train.step import TrainState

PDU = "pdu:epsilon=0.5,eta=2,start=1"


def test_it_rises_where_retained_text_is_lost_and_falls_to_0_where_it_is_not():
    losses = [0.4, 1.0, 0.75, 0.1, 0.1, 0.1, 0.1, 0.5]
    own = DualSteps(parse(f"{PDU},warmup=1"))
    seen = []

    def one_step(train: TrainState, batch: Any, retain_factor: Any):
        seen.append(float(retain_factor))
        metrics = {"retain_ce": jnp.float32(losses[int(train.step)])}
        return train._replace(step=train.step + 1), metrics

    state = own.begin(TrainState(None, None, jnp.int32(0)))
    for _ in losses:
        state, metrics = own.step(one_step)(state, None)
        assert float(metrics["retain_factor"]) == seen[-1]
    wanted, factor = [], np.float64(1)
    for number, loss in enumerate(losses):
        wanted.append(factor)
        if number:  # after the warmup
            factor = max(0.0, factor + 2 * (loss - 0.5))
    assert seen == pytest.approx(wanted, abs=1e-6)
    assert 0.0 in seen and max(seen) > 2


def test_it_weighs_the_retain_term_in_the_loss():
    params = decoder.init_params(CONFIG, 0)
    batch, rows = make_batch("tokens")
    loss = Loss(plain_objective(1.0, 0.5, 1.0), parse(PDU))
    batch = jax.jit(lambda b: loss.prepare(b, {}, CONFIG, rows))(batch)
    batch = batch.replace(retain_factor=jnp.float32(1))
    loss_fn = jax.jit(loss.make(CONFIG, rows))
    plain, metrics = loss_fn(params, batch)
    more, again = loss_fn(params, batch.replace(retain_factor=jnp.float32(3)))
    assert float(again["retain_ce"]) == pytest.approx(float(metrics["retain_ce"]))
    retained = float(metrics["retain_ce"])
    assert float(more) == pytest.approx(float(plain) + 2 * retained, rel=1e-5)


@pytest.mark.slow
def test_a_run_that_is_resumed_is_bit_equal(tmp_path):
    rows, loss = RoleRows(2, 2, 2), Loss(plain_objective(), parse(PDU))
    optimizer = optax.sgd(0.05)
    step = steps.make_train_step(CONFIG, loss, rows, optimizer)
    roles = ("unlearn", "update", "retain")
    packers = {r: Packer(documents(i, 6), 16, "tokens") for i, r in enumerate(roles)}

    def run(folder, count):
        own, called = DualSteps(loss.method), []
        count_calls = Callback(1, lambda n, state: called.append(n) or state)
        state = steps.init_state(decoder.init_params(CONFIG, 0), optimizer)
        end = train(
            own.step(lambda s, b, **f: step(s, b.place(6).replace(**f), {})),
            own.begin(state),
            BatchStream(packers, dict.fromkeys(packers, 2), 0),
            steps=count,
            directory=str(tmp_path / folder),
            settings=plain_loop(checkpoint_every=0),
            callbacks=own.of_train([count_calls]),
            title="test",
        )
        assert isinstance(end, WithDual) and called
        return end

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4)
    assert float(parts.factor) == float(whole.factor) != 1
    jax.tree.map(np.testing.assert_array_equal, parts.train.params, whole.train.params)
