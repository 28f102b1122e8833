# SPDX-License-Identifier: Apache-2.0
"""A removal's programs on eight devices give what one gives, and nothing lies whole."""

import on_devices
import pytest

HEAD = """
    import os, tempfile
    import jax, jax.numpy as jnp, numpy as np
    from jax_surgery.data.batch import Batch
    from jax_surgery.models import decoder
    from jax_surgery.models.config import ModelConfig
    from jax_surgery.models.trainable import Trainable
    from jax_surgery.models import sharding
    from jax_surgery.parallel.mesh import MeshShape
    from jax_surgery.train import devices
    from jax_surgery.optim.precondition import moments
    from jax_surgery.optim.precondition import ridge as ridges
    from jax_surgery.methods.subspace import identify
    from jax_surgery.methods.subspace import changes
    from jax_surgery.optim.linalg.layers import over_layers
    from jax_surgery.methods.subspace import rounds
"""


@pytest.mark.slow
def test_a_removal_on_eight_devices_equals_one_and_gathers_nothing_unasked():
    code = (
        HEAD
        + """
    config = ModelConfig(32, 16, 24, 2, 2, 2, 8, initializer_range=0.3)
    compute, every = decoder.DEFAULT_COMPUTE, Trainable(0, ("o", "up"))
    rng = np.random.default_rng(0)
    shape = (8, 12)
    batch = Batch(
        tokens_BT=rng.integers(0, 32, shape).astype(np.int32),
        segment_ids_BT=np.ones(shape, np.int32),
        positions_BT=np.tile(np.arange(12, dtype=np.int32), (8, 1)),
        moment_weights_BT=rng.random(shape).astype(np.float32),
        token_weights_BT=np.ones(shape, np.float32),
        target_log_odds_BT=np.full(shape, -9.0, np.float32),
    )
    how = rounds.Rounds(
        config, compute, every, identify.TaskLoss("margin", 4.0), 10, 0.01, True, "joint"
    )

    def removal():
        params = sharding.place(decoder.init_params(config, 0))
        base = every.take(params)
        knowledge = moments.second_moments(params, config, [batch] * 2, compute, every)
        ridge = ridges.factorise(knowledge, 1e-2)
        state = rounds.begin(how, jax.tree.map(jnp.copy, params), ridge)
        for _ in range(2):
            state, metrics = rounds.take_round(how, state, batch)
        change = changes.change_of(state.params, base, every)
        low = {k: a @ b for k, (a, b) in changes.factors(change, 3).items()}
        return knowledge, state.knowledge, change, low, metrics, state

    one = jax.device_get(removal()[:5])
    said, errors = tempfile.TemporaryFile("w+"), os.dup(2)
    os.dup2(said.fileno(), 2)
    with devices.on_mesh(MeshShape(fsdp=4, tp=2)):
        *eight, state = removal()
        for name, array in {**eight[0], **eight[1].lower, **state.knowledge.lower}.items():
            shards = {s.data.size for s in array.addressable_shards}
            assert shards == {array.size // 4}, (name, shards)
        eight = jax.device_get(tuple(eight))
    os.dup2(errors, 2)
    said.seek(0)
    # The compiler's warning where it copies an array to every device.
    assert "full rematerialization" not in said.read()
    assert one[4]["task_norm"] > 0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * np.abs(a).max())
    print("same")
    """
    )
    assert on_devices.run(code).splitlines()[-1] == "same"


@pytest.mark.slow
def test_layers_take_turns_and_each_is_done():
    code = (
        HEAD
        + """
    run = jax.jit(lambda m: over_layers(lambda each: (each, 2 * each[0]), m))
    for layers in (3, 8, 11, 16):
        matrix = np.random.default_rng(0).normal(size=(layers, 16, 5))
        with devices.on_mesh(MeshShape(fsdp=8)):
            same, twice = run(matrix.astype(np.float32))
        np.testing.assert_allclose(same, matrix, rtol=1e-6)
        np.testing.assert_allclose(twice, 2 * matrix[:, 0], rtol=1e-6)
    print("all")
    """
    )
    assert on_devices.run(code).splitlines()[-1] == "all"
