# SPDX-License-Identifier: Apache-2.0
"""Parameters that move and those that stay: gradients, updates, and their cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_compute, plain_loss, plain_optimizer
from quick_cases import few_of

from jax_surgery.checkpoints import hf_layout
from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import decoder, flops
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import ALL, BLOCK_OF, Trainable, resolve
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.train import step as steps

CONFIG = ModelConfig(61, 16, 24, 3, 4, 2, 4, initializer_range=0.3)
ROWS = RoleRows(0, 2, 0)
SOME = [
    Trainable(0, tuple(BLOCK_OF)),
    Trainable(1, ("q", "down")),
    Trainable(2, ("gate", "up", "down")),
    Trainable(1, ("o",)),
]


def ids(trainable):
    return f"{trainable.first_layer}:{','.join(trainable.matrices)}"


def batch_of(rng, rows=2, tokens=12):
    return Batch(
        tokens_BT=rng.integers(0, 61, (rows, tokens)),
        segment_ids_BT=np.ones((rows, tokens), np.int32),
        positions_BT=np.tile(np.arange(tokens), (rows, 1)),
        weights_BT=np.ones((rows, tokens), np.float32),
        position_weights_BT=np.ones((rows, tokens), np.float32),
    )


@pytest.mark.parametrize("trainable", few_of(SOME, SOME[:2]), ids=ids)
def test_gradients_are_those_of_all_where_something_moves_and_zero_elsewhere(trainable):
    params = decoder.init_params(CONFIG, 0)
    batch = batch_of(np.random.default_rng(0))
    whole = jax.grad(plain_loss().make(CONFIG, ROWS), has_aux=True)
    part = plain_loss().make(CONFIG, ROWS, trainable=trainable)
    wanted = trainable.put(trainable.take(whole(params, batch)[0]), params)
    got = jax.grad(part, has_aux=True)(params, batch)[0]
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(got))


def test_biases_move_with_everything_and_not_with_named_matrices():
    config = dataclasses.replace(CONFIG, biases=("q", "down"))
    params = decoder.init_params(config, 0)
    path = ("layers", "attention", "q", "bias")
    assert hf_layout.leaf(params, path).shape == (3, 4, 4)
    some = Trainable(1, ("q",))
    assert ALL.moves(path) and not some.moves(path)
    cut = some.cut(params)
    assert set(cut["layers"]["attention"]["q"]) == {"kernel"}
    back = some.paste(cut, params)
    assert not np.any(hf_layout.leaf(back, path))
    held = some.put(some.take(params), params)["layers"]["attention"]["q"]
    np.testing.assert_array_equal(
        held["kernel"][1:], params["layers"]["attention"]["q"]["kernel"][1:]
    )


def test_weight_decay_leaves_frozen_parameters_alone():
    trainable = Trainable(1, ("up",))
    optimizer = make_optimizer(plain_optimizer(weight_decay=0.5, learning_rate=0.1), 5)
    step = steps.make_train_step(
        CONFIG, plain_loss(), ROWS, optimizer, trainable=trainable
    )
    params = decoder.init_params(CONFIG, 0)
    start = steps.init_state(jax.tree.map(jnp.copy, params), optimizer)
    after = step(start, batch_of(np.random.default_rng(1)), None)[0].params
    up = after["layers"]["mlp"]["up"]["kernel"]
    before = params["layers"]["mlp"]["up"]["kernel"]
    assert np.all(up[0] == before[0])
    assert np.all(np.any(up[1:] != before[1:], axis=(1, 2)))
    after["layers"]["mlp"]["up"]["kernel"] = before
    for left, right in zip(
        jax.tree.leaves(after), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("trainable", few_of([ALL, *SOME], SOME[:1]), ids=ids)
def test_counted_flops_are_those_of_the_compiled_program(trainable):
    config = ModelConfig(512, 128, 256, 3, 4, 2, 32)
    rows, tokens = 2, 128
    loss_fn = plain_loss().make(
        config,
        RoleRows(0, rows, 0),
        plain_compute(unroll=0),
        trainable=trainable,
    )

    def gradients(params, batch):
        full = jax.grad(loss_fn, has_aux=True)(params, batch)[0]
        return trainable.take(full) if trainable.matrices else full

    compiled = jax.jit(gradients).lower(
        decoder.abstract_params(config),
        batch_of(np.random.default_rng(0), rows, tokens),
    )
    measured = compiled.compile().cost_analysis()["flops"]
    # Of the scores, four blocks of queries compute 1/4, 2/4, 3/4 and all of a row's.
    seen = tokens * 5 // 8
    counted = flops.training_flops(config, rows * tokens, seen, trainable)
    assert counted == pytest.approx(measured, rel=0.12)


def test_what_a_config_names_moves():
    assert resolve(CONFIG, -1, "down, up") == Trainable(2, ("up", "down"))
    assert resolve(CONFIG, 0, "") == ALL
    every = Trainable(1, tuple(BLOCK_OF))
    assert resolve(CONFIG, 1, "", only_matrices=True) == every
    assert resolve(CONFIG, -2, "", rank=2) == every


@pytest.mark.parametrize(
    "first, names, options, message",
    [
        (3, "up", {}, r"config.optimizer.first_layer=3: .* 3 layers, so use -3 to 2"),
        (-4, "up", {}, r"first_layer=-4"),
        (9, "up", {"section": "config.rounds"}, r"^config.rounds.first_layer=9"),
        (0, "up,dwon", {}, r"config.optimizer.matrices has 'dwon'; choose from q, k"),
        (0, "x", {"section": "config.rounds"}, r"^config.rounds.matrices has 'x'"),
        (1, "", {}, r"name the matrices that move, e.g. config.optimizer.matrices="),
    ],
)
def test_what_cannot_be_resolved_names_the_users_own_field(
    first, names, options, message
):
    with pytest.raises(ValueError, match=message):
        resolve(CONFIG, first, names, **options)
