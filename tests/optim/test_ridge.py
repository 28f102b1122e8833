# SPDX-License-Identifier: Apache-2.0
"""The ridge solver: against float64 and eigenvectors, sharded, and compiled for TPUs."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import optax
import pytest
from plain_settings import plain_optimizer
from tpu_programs import needs_libtpu

from configs import plan as plan_config
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim.linalg import cholesky
from jax_surgery.optim.newton_schulz import COEFFICIENTS, STEPS
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.optim.precondition import directions, ridge
from jax_surgery.plan import neighbours
from jax_surgery.runs import plan, settings
from jax_surgery.train.checkpoint import Checkpoints

FIELD = "config.statistics.ridge"
DIRECTIONS = {"natural": directions.natural, "orthogonal": directions.orthogonal}


def moment_of(width, seed=0):
    """A moment of fewer tokens than it is wide, whose inputs fade; float32."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(width // 2, width)) * 0.98 ** np.arange(width)
    return jnp.asarray(inputs.T @ inputs, jnp.float32)[None]


def metric_of(moment_XX, size):
    """A / tau + ridge I in float64."""
    exact = np.asarray(moment_XX, np.float64)
    return exact / exact.trace() * len(exact) + size * np.eye(len(exact))


def by_eigenvectors(name, moment_XX, gradient_XY, size, dtype):
    """The direction by NumPy, with the symmetric root S of the inverse."""
    moment_XX = np.asarray(moment_XX, dtype)
    tau = np.trace(moment_XX) / len(moment_XX)
    values, vectors = np.linalg.eigh(moment_XX / tau)
    scaled = vectors * (np.maximum(values, 0) + dtype(size)) ** dtype(-0.5)
    root = scaled @ vectors.T
    X = root @ np.asarray(gradient_XY, dtype)
    if name == "natural":
        return root @ X
    X = X / np.linalg.norm(X)
    a, b, c = map(dtype, COEFFICIENTS)
    for _ in range(STEPS):
        if X.shape[0] > X.shape[1]:
            square = X.T @ X
            X = a * X + X @ (b * square + c * square @ square)
        else:
            square = X @ X.T
            X = a * X + (b * square + c * square @ square) @ X
    return root @ X


@pytest.mark.parametrize("width", [40, 600])
def test_solves_are_float64s(width):
    moment = moment_of(width)
    metric = metric_of(moment[0], 1e-2)
    matrices = {"up": np.random.default_rng(1).normal(size=(1, width, 7))}
    matrices = jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), matrices)
    factors = ridge.factorise({"mlp_in": moment}, 1e-2)
    lower = np.linalg.cholesky(metric)
    exact = np.asarray(matrices["up"][0], np.float64)
    for function, wanted in (
        (cholesky.solve, np.linalg.solve(metric, exact)),
        (cholesky.solve_lower, np.linalg.solve(lower, exact)),
    ):
        found = np.asarray(ridge.of_each(function, factors, matrices)["up"][0])
        assert np.linalg.norm(found - wanted) < 1e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("width, outputs", [(300, 40), (640, 200), (200, 300)])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_are_those_of_eigenvectors_at_the_smallest_ridge(
    name, width, outputs
):
    """With the default ridge of configs/surgery.py conditions are above 1e6.

    The error is of the change on whitened inputs, L^T D, relative to it. A condition of
    1e6 times float32's spacing is 0.1; both ways stay far below.
    """
    size, moment = 1e-5, moment_of(width)
    gradient = np.random.default_rng(2).normal(size=(1, width, outputs))
    gradient = jnp.asarray(gradient, jnp.float32)
    factors = ridge.checked({"mlp_in": moment}, size, FIELD)
    found = DIRECTIONS[name]({"up": gradient}, factors)["up"][0]
    metric = metric_of(moment[0], size)
    assert np.linalg.cond(metric) > 1e6
    exact, before = (
        by_eigenvectors(name, moment[0], gradient[0], size, dtype)
        for dtype in (np.float64, np.float32)
    )
    whiten = np.linalg.cholesky(metric).T

    def error(D):
        off = whiten @ (np.asarray(D, np.float64) - exact)
        return np.linalg.norm(off) / np.linalg.norm(whiten @ exact)

    assert error(before) < 1e-3
    assert error(found) < 2e-3


def test_a_ridge_below_rounding_errors_is_an_error_that_names_its_field():
    """Ten inputs of twelve are the same, so nothing but the ridge tells them apart."""
    moment = np.ones((1, 12, 12), np.float32) + np.diag([0.0] * 10 + [1.0, 2.0])
    moments = {"mlp_hidden": jnp.asarray(moment, jnp.float32)}
    with pytest.raises(ValueError, match=r"statistics.ridge=1e-09 is too small.*mlp_"):
        ridge.checked(moments, 1e-9, FIELD)
    with pytest.raises(ValueError, match=r"Use config.statistics.ridge=1e-08 or more"):
        ridge.checked(moments, 1e-9, FIELD)
    assert np.isfinite(ridge.checked(moments, 1e-3, FIELD).lower["mlp_hidden"]).all()
    moments["mlp_in"] = moments["mlp_hidden"].at[0, 1, 1].set(jnp.inf)
    with pytest.raises(ValueError, match=r"moments of mlp_in are not finite"):
        ridge.checked(moments, 1e-3, FIELD)
    with pytest.raises(ValueError, match=r"moments of mlp_in are not finite"):
        ridge.raised(moments, 1e-3, FIELD)


def test_a_run_that_chooses_for_itself_raises_a_ridge_that_is_too_small(capsys):
    moment = np.ones((1, 12, 12), np.float32) + np.diag([0.0] * 10 + [1.0, 2.0])
    moments = {"mlp_hidden": jnp.asarray(moment, jnp.float32)}
    found = ridge.raised(moments, 1e-9, FIELD)
    said = capsys.readouterr().out.splitlines()[-1]
    taken = float(said.split("raised to ")[1].split(":")[0])
    assert 1e-9 < taken <= 1e-3 and FIELD in said
    of = ridge.checked(moments, taken, FIELD)
    np.testing.assert_array_equal(found.lower["mlp_hidden"], of.lower["mlp_hidden"])
    with pytest.raises(ValueError, match="is too small"):
        ridge.raised({"mlp_hidden": -moments["mlp_hidden"]}, 1e-9, FIELD)


CONFIG = ModelConfig(44, 16, 24, 3, 4, 2, 4, initializer_range=0.3)
MOVES = Trainable(1, ("o", "up", "down"))


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree
    )


def started(name, momentum=0.5):
    """(optimizer, gradients, state with factors, parameters) before a step."""
    optimizer = make_optimizer(plain_optimizer(name, 0.1, momentum=momentum), 9, MOVES)
    params = decoder.init_params(CONFIG, 0)
    state = optimizer.init(params)
    moments = {
        kind: jnp.stack([moment_of(lower.shape[-1], seed)[0] for seed in range(2)])
        for kind, lower in state.factors.lower.items()
    }
    state = state._replace(factors=ridge.factorise(moments, 1e-3))
    return optimizer, random_like(params, 3), state, params


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_resumed_run_is_bit_equal(name, tmp_path):
    """The factors are a part of the checkpoint: they cannot be computed again from the
    parameters of a later step."""
    optimizer, gradients, state, params = started(name)
    update = jax.jit(optimizer.update)
    _, half = update(gradients, state, params)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, half, {"step": 1})
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        stored = checkpoints.restore(optimizer.init(params)).state
    left, right = (update(gradients, s, params) for s in (half, stored))
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)
    assert float(optax.tree.norm(left[0])) > 0


ON_EIGHT_DEVICES = """
import os, tempfile, jax, numpy as np
from jax_surgery.models import sharding
from jax_surgery.optim.precondition import ridge
from jax_surgery.parallel import mesh as meshes
from test_ridge import DIRECTIONS, moment_of, started
said, errors = tempfile.TemporaryFile("w+"), os.dup(2)
os.dup2(said.fileno(), 2)
try:
    for name in DIRECTIONS:
        optimizer, *arguments = started(name)
        wanted = jax.jit(optimizer.update)(*arguments)
        with jax.set_mesh(meshes.make_mesh(meshes.MeshShape(fsdp=4, tp=2))):
            moments = {"mlp_in": sharding.place(moment_of(16))}
            for factors in (
                ridge.factorise(moments, 1e-3),
                (placed := [sharding.place(tree) for tree in arguments])[1].factors,
                (got := jax.jit(lambda *a: sharding.constrain(optimizer.update(*a)))(
                    *placed
                ))[1].factors,
            ):
                for kind, lower in factors.lower.items():
                    parts = {s.data.size for s in lower.addressable_shards}
                    assert parts == {lower.size // 4}, (kind, lower.sharding)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            x, y = (np.asarray(a, np.float64) for a in (x, y))
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5 * abs(y).max())
finally:
    os.dup2(errors, 2)
said.seek(0)
# The compiler's warning where it copies an array to every device.
assert "full rematerialization" not in said.read()
print("same")
"""


@pytest.mark.slow
def test_on_eight_devices_steps_are_those_of_one_and_factors_stay_split():
    assert on_devices.run(ON_EIGHT_DEVICES).splitlines()[-1] == "same"


FOR_A_TPU = """
import json, jax, jax.numpy as jnp
from jax_surgery.plan import topologies
topologies.prepare()
from jax_surgery.models import sharding
from jax_surgery.optim.precondition import ridge
from jax_surgery.parallel import mesh as meshes
mesh = meshes.make_mesh(meshes.MeshShape(), topologies.devices("v5e:2x2"))
with jax.set_mesh(mesh):
    shape = jax.ShapeDtypeStruct((4, 11008, 11008), jnp.float32)
    moments = sharding.abstract({"mlp_hidden": shape}, mesh)
    memory = ridge.factorise.lower(moments, 1e-5).compile().memory_analysis()
print(json.dumps([
    memory.argument_size_in_bytes,
    memory.output_size_in_bytes,
    memory.temp_size_in_bytes,
]))
"""


@pytest.mark.slow
@needs_libtpu
def test_factors_11008_wide_compile_for_tpus_and_lie_split():
    """Moments of a layer are 485 MB; each of four chips holds a quarter of those of
    four layers, and two more of a whole layer while it works. Eigenvectors of this
    width do not compile."""
    done = subprocess.run(
        [sys.executable, "-c", FOR_A_TPU],
        # libtpu does not know flags for CPUs, and ends a process that has them.
        env=on_devices.environment(1) | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    layer = 4 * 11008**2
    arguments, outputs, temporaries = json.loads(done.stdout)
    assert arguments == pytest.approx(layer, rel=0.01)
    assert outputs == pytest.approx(layer, rel=0.01)
    assert temporaries < 2.1 * layer


@pytest.mark.slow
@needs_libtpu
def test_a_7b_step_along_orthogonal_directions_fits_16_chips():
    """All matrices move; factors and velocity are a sixteenth of 20.5 and 24 GiB."""
    planned = settings.from_config(plan_config.get_config())
    asked = plan.ask_memory(
        neighbours.changed(planned, {"surgery.optimizer.name": "orthogonal"})
    )
    assert asked["fits"] and asked["needs"] < 10.5 * 2**30
    factors = 32 * (3 * 4096**2 + 11008**2) * 4
    velocity = 32 * (4 * 4096**2 + 3 * 4096 * 11008) * 4
    held = asked["memory"]["optimizer"]
    assert held == pytest.approx((factors + velocity) / 16, rel=0.01)


def test_a_ridge_relative_to_inputs_is_small_for_small_ones_too():
    """One input is a thousand times larger, as of real models some are."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 12)) * np.asarray([1e3] + [1.0] * 11)
    X[:, 2] += X[:, 1]  # the text tells them apart by what is left of the second
    moments = {"mlp_in": jnp.asarray((X.T @ X)[None], jnp.float32)}
    A = (X.T @ X) * 12 / np.trace(X.T @ X)
    size = 1e-3
    for scale, loads in (("mean", np.ones(12)), ("inputs", np.diag(A))):
        lower = ridge.factorise(moments, size, scale).lower["mlp_in"][0]
        wanted = A + size * np.diag(loads)
        np.testing.assert_allclose(lower @ lower.T, wanted, rtol=1e-4, atol=1e-9)
    # Of the small inputs the mean's ridge is the larger part, and hides what they do.
    assert np.diag(A)[1] < size < np.diag(A)[0]
