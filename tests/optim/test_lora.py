# SPDX-License-Identifier: Apache-2.0
"""Low-rank deltas against dense ones: forward, gradients, steps, memory, cost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_compute, plain_loss, plain_optimizer

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import architectures, decoder, flops, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.generate import greedy_generate
from jax_surgery.models.trainable import BLOCK_OF, Trainable, resolve
from jax_surgery.optim import lora
from jax_surgery.optim.lora import LowRank
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.train import step as steps

GQA = ModelConfig(61, 16, 24, 3, 4, 2, 4, initializer_range=0.3)
TIED = dataclasses.replace(GQA, num_kv_heads=4, tie_embeddings=True)
BIASED = dataclasses.replace(GQA, biases=("q", "k", "v", "up"))
ALL_SEVEN = LowRank(rank=3, alpha=6.0)
ROWS = RoleRows(2, 2, 4)
LOSS = plain_loss(0.5, 1.0, 2.0, ascent="level", margin=-3.0)

forward = jax.jit(decoder.forward, static_argnums=1, static_argnames="compute")


def moved_factors(config, low_rank, seed=0):
    """Factors as after some steps: B is not zero either."""
    factors = lora.init_factors(config, low_rank, seed)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), factors
    )


def dense(base, factors, low_rank):
    """W + alpha / rank A B in float64, by NumPy."""
    merged = jax.tree.map(lambda x: np.asarray(x, np.float64), base)
    for block, matrices in factors["layers"].items():
        for name, factor in matrices.items():
            a, b = (np.asarray(factor[k], np.float64) for k in ("lora_a", "lora_b"))
            # Ends of A and starts of B are the rank, whichever axes heads take.
            delta = np.stack([np.tensordot(x, y, 1) for x, y in zip(a, b, strict=True)])
            merged["layers"][block][name]["kernel"] += (
                low_rank.alpha / low_rank.rank * delta
            )
    return merged


def copied(tree):
    return jax.tree.map(jnp.copy, tree)


def assert_trees_close(left, right, rtol=1e-4, atol=1e-6):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=name)


def assert_trees_equal(left, right):
    assert_trees_close(left, right, 0, 0)


def make_batch(seed=0, tokens=12, rows=ROWS):
    rng = np.random.default_rng(seed)
    shape = (rows.total, tokens)
    return Batch(
        tokens_BT=jnp.asarray(rng.integers(0, 61, shape), jnp.int32),
        segment_ids_BT=jnp.ones(shape, jnp.int32),
        positions_BT=jnp.tile(jnp.arange(tokens, dtype=jnp.int32), (shape[0], 1)),
        weights_BT=jnp.ones(shape, jnp.float32),
    )


def both(base, factors, config, low_rank, tokens):
    """Hidden states with the deltas beside the base, and added to it."""
    beside = lora.attach(base, factors, low_rank)
    merged = lora.merge(copied(base), factors, low_rank)
    assert_trees_close(merged, dense(base, factors, low_rank), 1e-6, 1e-6)
    return [forward(params, config, tokens) for params in (beside, merged)]


@pytest.mark.parametrize("config", [GQA, TIED, BIASED], ids=["gqa", "tied", "biased"])
def test_deltas_beside_the_base_equal_the_sum_of_the_weights(config):
    base, tokens = decoder.init_params(config, 0), make_batch().tokens_BT
    factors, plain = moved_factors(config, ALL_SEVEN), forward(base, config, tokens)
    beside, merged = both(base, factors, config, ALL_SEVEN, tokens)
    np.testing.assert_allclose(beside, merged, rtol=1e-4, atol=2e-5)
    for name, block in BLOCK_OF.items():  # each alone, the deltas of the others 0
        alone = jax.tree.map(jnp.zeros_like, factors)
        alone["layers"][block][name] = factors["layers"][block][name]
        beside, merged = both(base, alone, config, ALL_SEVEN, tokens)
        np.testing.assert_allclose(beside, merged, 1e-4, 2e-5, err_msg=name)
        assert np.abs(beside - plain).max() > 0.01, name


def test_matrices_without_factors_stay():
    some = dataclasses.replace(ALL_SEVEN, matrices="down,k,o")
    base, factors = decoder.init_params(GQA, 0), moved_factors(GQA, some)
    held = {name for block in factors["layers"].values() for name in block}
    assert held == set(some.targets) == {"k", "o", "down"}
    beside, merged = both(base, factors, GQA, some, make_batch().tokens_BT)
    np.testing.assert_allclose(beside, merged, rtol=1e-4, atol=2e-5)


def test_generation_with_deltas_is_that_of_the_sum():
    base, factors = decoder.init_params(GQA, 0), moved_factors(GQA, ALL_SEVEN)
    prompts = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]
    ask = functools.partial(greedy_generate, eos_id=-1)
    plain = ask(base, GQA, prompts, 8)
    beside = ask(lora.attach(base, factors, ALL_SEVEN), GQA, prompts, 8)
    assert beside == ask(lora.merge(base, factors, ALL_SEVEN), GQA, prompts, 8)
    assert beside != plain


@pytest.mark.parametrize("config", [GQA, TIED], ids=["gqa", "tied"])
def test_a_run_begins_at_the_base_exactly(config):
    base = decoder.init_params(config, 0)
    factors = lora.init_factors(config, ALL_SEVEN, 5)
    shapes = flops.matrix_shapes(config)
    for block, matrices in factors["layers"].items():
        for name, factor in matrices.items():
            a, (inputs, outputs) = np.asarray(factor["lora_a"]), shapes[name]
            assert a.size == config.num_layers * inputs * 3
            assert factor["lora_b"].size == config.num_layers * 3 * outputs
            assert not np.any(factor["lora_b"])
            # Uniform within 1 / sqrt(inputs): the largest of so many is near the bound.
            bound = inputs**-0.5
            assert 0.9 * bound < np.abs(a).max() <= bound, (block, name)
            assert abs(a.mean()) < 4 * bound / np.sqrt(3 * a.size)
    tokens = make_batch().tokens_BT
    beside = forward(lora.attach(base, factors, ALL_SEVEN), config, tokens)
    np.testing.assert_array_equal(beside, forward(base, config, tokens))
    assert_trees_equal(lora.merge(copied(base), factors, ALL_SEVEN), base)


@pytest.mark.parametrize("config", [GQA, TIED], ids=["gqa", "tied"])
def test_gradients_are_the_chain_rule_through_the_dense_delta(config):
    base, factors = decoder.init_params(config, 0), moved_factors(config, ALL_SEVEN)
    batch = make_batch()
    prepare = jax.jit(LOSS.prepare, static_argnums=(2, 3))
    batch = prepare(batch, base, config, ROWS)
    loss_fn = LOSS.make(config, ROWS)

    def low(factors, base):
        return loss_fn(lora.attach(base, factors, ALL_SEVEN), batch)[0]

    of_factors, of_base = jax.jit(jax.grad(low, (0, 1)))(factors, base)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_base))
    merged = lora.merge(base, factors, ALL_SEVEN)
    whole = jax.jit(jax.grad(lambda p: loss_fn(p, batch)[0]))(merged)
    for block, matrices in factors["layers"].items():
        for name, factor in matrices.items():
            rows, cols = flops.matrix_shapes(config)[name]
            of_kernel = whole["layers"][block][name]["kernel"]
            G = np.asarray(of_kernel, np.float64).reshape(-1, rows, cols)
            A = np.asarray(factor["lora_a"], np.float64).reshape(-1, rows, 3)
            B = np.asarray(factor["lora_b"], np.float64).reshape(-1, 3, cols)
            got = of_factors["layers"][block][name]
            for key, wanted in (
                ("lora_a", 2.0 * G @ B.swapaxes(1, 2)),
                ("lora_b", 2.0 * A.swapaxes(1, 2) @ G),
            ):
                np.testing.assert_allclose(
                    got[key].reshape(wanted.shape),
                    wanted,
                    rtol=1e-3,
                    atol=2e-5 * np.abs(wanted).max(),
                    err_msg=f"{name} {key}",
                )


def make_step(low_rank=ALL_SEVEN, config=GQA, rows=ROWS, **options):
    optimizer = make_optimizer(plain_optimizer(learning_rate=3e-3), 5)
    step = steps.make_train_step(
        config, LOSS, rows, optimizer, low_rank=low_rank, **options
    )
    return step, optimizer


def test_steps_move_the_factors_alone_and_learn():
    base = decoder.init_params(GQA, 0)
    kept = jax.tree.map(np.array, base)
    step, optimizer = make_step()
    state = steps.init_state(lora.init_factors(GQA, ALL_SEVEN, 0), optimizer)
    wanted = {leaf.shape for leaf in jax.tree.leaves(state.params)} | {()}
    assert {leaf.shape for leaf in jax.tree.leaves(state.opt_state)} == wanted
    losses = []
    for _ in range(5):
        state, metrics = step(state, make_batch(), base)
        losses.append(float(metrics["loss"]))
        assert metrics["gradient_norm"] > 0
    assert losses[-1] < losses[0] - 0.1
    assert_trees_equal(base, kept)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(state.params))


def test_layers_before_the_first_keep_a_delta_of_zero():
    base = decoder.init_params(GQA, 0)
    low_rank = LowRank(3, matrices="o,up")
    trainable = resolve(GQA, -1, low_rank.matrices, rank=3)
    assert trainable == Trainable(2, ("o", "up"))
    step, optimizer = make_step(low_rank, trainable=trainable)
    state = steps.init_state(lora.init_factors(GQA, low_rank, 0), optimizer)
    state, _ = step(state, make_batch(), base)
    for block, name in (("attention", "o"), ("mlp", "up")):
        b = np.asarray(state.params["layers"][block][name]["lora_b"])
        assert not np.any(b[:2])
        assert np.any(b[2])


@pytest.mark.parametrize("by_trainable", [True, False], ids=["own", "any"])
def test_weight_decay_leaves_factors_of_frozen_layers_alone(by_trainable):
    """Whether the optimizer is made for what moves (then what is frozen has no state)
    or for everything."""
    trainable = Trainable(2, ("o", "up"))
    low_rank = LowRank(3, matrices="o,up")
    choice = plain_optimizer(learning_rate=3e-3, weight_decay=0.5)
    optimizer = make_optimizer(choice, 5, *([trainable] if by_trainable else []))
    step = steps.make_train_step(
        GQA, LOSS, ROWS, optimizer, low_rank=low_rank, trainable=trainable
    )
    start = jax.device_get(moved_factors(GQA, low_rank))
    state = steps.init_state(copied(start), optimizer)
    layers = {leaf.shape[0] for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim}
    assert layers == {1 if by_trainable else 3}
    state, _ = step(state, make_batch(), decoder.init_params(GQA, 0))
    for before, after in zip(
        jax.tree.leaves(start), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_array_equal(after[:2], before[:2])
        assert np.all(np.any(after[2] != before[2], axis=-1))


@pytest.mark.slow
def test_micro_batches_and_a_cached_reference_change_nothing():
    base = decoder.init_params(GQA, 0)
    start = moved_factors(GQA, ALL_SEVEN)
    batch = make_batch()
    after = []
    for accumulate, cached in ((1, False), (2, False), (2, True)):
        step, optimizer = make_step(accumulate=accumulate)
        given = batch
        if cached:
            retain = batch.text.take(ROWS, "retain")
            hidden = forward(
                base, GQA, retain.tokens_BT, retain.segment_ids_BT, retain.positions_BT
            )
            given = batch.replace(reference_hidden_RTD=hidden)
        state = steps.init_state(copied(start), optimizer)
        state, metrics = step(state, given, base)
        after.append((metrics, state.opt_state[1][0].mu))
    assert float(after[0][0]["retain_kl"]) > 0.01
    for other in after[1:]:
        assert_trees_close(other, after[0], 3e-4, 3e-6)


@pytest.mark.slow
def test_a_bfloat16_base_has_float32_factors():
    half = plain_compute(dtype="bfloat16")
    exact = jax.tree.map(lambda x: x.astype(jnp.bfloat16), decoder.init_params(GQA, 0))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), exact)
    step, optimizer = make_step(compute=half)
    after = []
    for base in (exact, wide):
        state = steps.init_state(lora.init_factors(GQA, ALL_SEVEN, 0), optimizer)
        state, _ = step(state, make_batch(), base)
        after.append(state)
    assert_trees_equal(*after)
    assert {str(x.dtype) for x in jax.tree.leaves(after[0].params)} == {"float32"}
    factors = moved_factors(GQA, ALL_SEVEN)
    rounded = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16), lora.merge(wide, factors, ALL_SEVEN)
    )
    assert_trees_equal(lora.merge(exact, factors, ALL_SEVEN), rounded)


def test_the_compiled_step_holds_no_gradient_of_the_base():
    """Few tokens and many layers: only weights could fill its temporaries."""
    config = ModelConfig(64, 256, 512, 16, 4, 4, 64)
    rows, compute = RoleRows(1, 1, 1), plain_compute(remat="full")
    base = decoder.abstract_params(config)
    batch = jax.eval_shape(lambda: make_batch(tokens=16, rows=rows))

    def memory(low_rank, params):
        step, optimizer = make_step(low_rank, config, rows, compute=compute)
        state = jax.eval_shape(lambda p: steps.init_state(p, optimizer), params)
        return step.lower(state, batch, base).compile().memory_analysis()

    def nbytes(tree):
        return sum(4 * leaf.size for leaf in jax.tree.leaves(tree))

    full = memory(LowRank(0), base)
    assert full.temp_size_in_bytes > nbytes(base)  # so gradients are seen
    low_rank = LowRank(rank=2)
    factors = jax.eval_shape(lambda: lora.init_factors(config, low_rank, 0))
    low = memory(low_rank, factors)
    assert low.temp_size_in_bytes < nbytes(base) / 6
    assert low.output_size_in_bytes < 3.1 * nbytes(factors)  # with both moments


@pytest.mark.parametrize(
    "low_rank, first",
    [
        (LowRank(48), 0),
        pytest.param(LowRank(48, matrices="up,down"), 0, marks=pytest.mark.slow),
        pytest.param(LowRank(64, matrices="q,v"), 0, marks=pytest.mark.slow),
        (LowRank(64, matrices="o,gate"), -1),
    ],
    ids=lambda value: getattr(value, "matrices", value),
)
def test_counted_flops_are_those_of_the_compiled_program(low_rank, first):
    config = ModelConfig(256, 128, 256, 3, 4, 2, 32)
    rows, tokens = RoleRows(0, 2, 0), 128
    trainable = resolve(config, first, low_rank.matrices, rank=low_rank.rank)
    loss_fn = plain_loss().make(
        config,
        rows,
        plain_compute(unroll=0),
        Trainable(trainable.first_layer),
    )

    def gradients(factors, base, batch):
        loss = lambda f: loss_fn(lora.attach(base, f, low_rank), batch)[0]
        grads = jax.grad(loss)(factors)
        return jax.tree.map(lambda leaf: leaf[trainable.first_layer :], grads)

    factors = jax.eval_shape(lambda: lora.init_factors(config, low_rank, 0))
    batch = make_batch(tokens=tokens, rows=rows)
    batch = batch.replace(position_weights_BT=batch.weights_BT)
    lowered = jax.jit(gradients).lower(factors, decoder.abstract_params(config), batch)
    measured = lowered.compile().cost_analysis()["flops"]
    # Of the scores, four blocks of queries compute 1/4, 2/4, 3/4 and all of a row's.
    seen = tokens * 5 // 8
    counted = flops.training_flops(
        config, rows.total * tokens, seen, trainable, low_rank.rank
    )
    assert counted == pytest.approx(measured, rel=0.08)


def test_every_factor_is_in_the_layout_table():
    rows = architectures.rows()
    factors = jax.eval_shape(lambda: lora.init_factors(GQA, ALL_SEVEN, 0))
    sharding.check(factors, {"data": 1, "fsdp": 4, "tp": 2})
    for path, leaf in jax.tree_util.tree_leaves_with_path(factors):
        names = tuple(key.key for key in path)
        axes, spec = rows[names].axes, rows[names].spec
        sizes = dict(
            zip("LDNKHFR", (3, 16, 4, 2, 4, 24, 3), strict=True)
        )  # GQA's, and the rank
        assert tuple(sizes[axis] for axis in axes) == leaf.shape
        whole = rows[*names[:-1], "kernel"]
        lies = dict(zip(whole.axes, whole.spec, strict=True)) | {"R": None}
        assert tuple(spec) == tuple(lies[axis] for axis in axes)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"rank": -1}, r"lora.rank=-1; use 0 \(full training\) or more"),
        ({"alpha": 0.0}, r"lora.alpha=0.0 must be positive"),
        ({"matrices": "q,qate"}, r"lora.matrices has 'qate'; choose from q, k, v"),
        ({"matrices": " ,"}, r"lora.matrices=' ,' names no matrix; choose"),
    ],
)
def test_bad_choices_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        LowRank(**{"rank": 4} | fields)


def test_a_rank_that_a_matrix_cannot_have_is_named():
    assert resolve(GQA, 0, "up, k", rank=8) == Trainable(0, ("k", "up"))
    with pytest.raises(ValueError, match=r"rank=9.*matrix k of 16 x 8.*use 1 to 8"):
        resolve(GQA, 0, "up,k", rank=9)
    with pytest.raises(ValueError, match=r"optimizer.first_layer=3: the model has 3"):
        resolve(GQA, 3, "up,k", rank=2)
    with pytest.raises(ValueError, match=r"config.lora.matrices has 'upp'; choose"):
        resolve(GQA, 0, "upp", rank=2)
