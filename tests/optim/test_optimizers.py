# SPDX-License-Identifier: Apache-2.0
"""Optimizers: against NumPy on unstacked layers, memory, rounding, and on a mesh."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
from optim_cases import CONFIG, trees
from plain_settings import OPTIMIZER, plain_loss, plain_optimizer, read
from quick_cases import few_of

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.published import sizes
from jax_surgery.models.trainable import ALL, Trainable
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.train import step as steps
from jax_surgery.train.checkpoint import Checkpoints

RATE = 0.02
BOTH = {"moment_dtype": "bfloat16", "second_moment_dtype": "bfloat16"}
CHOICES = {
    "adamw": {"b1": 0.8, "b2": 0.99},
    "adafactor": {},
    "sgd": {"momentum": 0.7},
    "muon": {"momentum": 0.9, "b1": 0.8, "b2": 0.99},
}
# With two moments, and with at most one.
SOME = few_of(CHOICES, ("adamw", "sgd"))
MOVING = [ALL, Trainable(1, ("q", "o", "v", "down"))]


def choice_of(name, **fields):
    fields = CHOICES[name] | {"schedule": "linear", "final": 0.5} | fields
    return plain_optimizer(name, RATE, **fields)


def moves(trainable):
    return "all" if trainable == ALL else "some"


def unstack(tree):
    """Float64 arrays by (path, layer): every layer's matrices [inputs, outputs]."""
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = tuple(key.key for key in path)
        leaf = np.asarray(leaf, np.float64)
        if names[0] != "layers":
            arrays[names, None] = leaf
            continue
        for layer, array in enumerate(leaf):
            if names[-2] in ("q", "k", "v"):
                array = array.reshape(array.shape[0], -1)
            elif names[-2] == "o":
                array = array.reshape(-1, array.shape[-1])
            arrays[names, layer] = array
    return arrays


def adam(state, g, t):
    b1, b2 = 0.8, 0.99
    state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    state["v"] = b2 * state.get("v", 0) + (1 - b2) * g * g
    return state["m"] / (1 - b1**t) / (np.sqrt(state["v"] / (1 - b2**t)) + 1e-8)


def adafactor(state, g, t):
    decay, square = 1 - t**-0.8, g * g
    if min(g.shape) >= 128 and g.ndim == 2:
        for name, axis in (("rows", 1), ("columns", 0)):
            mean = square.mean(axis, keepdims=True)
            state[name] = decay * state.get(name, 0) + (1 - decay) * mean
        v = state["rows"] * state["columns"] / state["rows"].mean()
    else:
        v = state["v"] = decay * state.get("v", 0) + (1 - decay) * square
    step = g / np.sqrt(v)
    return step / max(1.0, np.sqrt(np.mean(step**2)))


def sgd(state, g, t):
    state["v"] = 0.7 * state.get("v", 0) + g
    return state["v"]


def muon(state, g, t):
    state["v"] = 0.9 * state.get("v", 0) + g
    X = g + 0.9 * state["v"]
    X = X / np.linalg.norm(X)
    for _ in range(5):
        square = X @ X.T
        X = 3.4445 * X - 4.7750 * square @ X + 2.0315 * square @ square @ X
    return 0.2 * math.sqrt(max(g.shape)) * X


REFERENCE = {"adamw": adam, "adafactor": adafactor, "sgd": sgd, "muon": muon}


def reference(name, params, gradients, moving, clip, weight_decay, steps):
    """Parameters after a step on each gradient, and the last step's directions."""
    params = unstack(params)
    states = {key: {} for key in params}
    for t, gradient in enumerate(gradients, 1):
        gradient = unstack(gradient)
        # Gradients of what does not move, which a step's loss has none of, do not count.
        moved = [g for key, g in gradient.items() if moving(*key)]
        norm = np.sqrt(sum(np.sum(g * g) for g in moved))
        rate = RATE * (1 - 0.5 * (t - 1) / steps)
        for (names, layer), g in gradient.items():
            if not moving(names, layer):
                continue
            in_layers = names[0] == "layers" and names[-1] == "kernel"
            direction = adam if name == "muon" and not in_layers else REFERENCE[name]
            change = direction(states[names, layer], g * min(1, clip / norm), t)
            if names[-1] != "scale":
                change = change + weight_decay * params[names, layer]
            params[names, layer] = params[names, layer] - rate * change
    return params


@pytest.mark.parametrize("trainable", MOVING, ids=moves)
@pytest.mark.parametrize("name", CHOICES)
def test_three_steps_are_numpys_on_unstacked_layers(name, trainable):
    params, gradients = trees(3)
    choice = choice_of(name, clip=2.0, weight_decay=0.3)
    optimizer = make_optimizer(choice, 10, trainable)
    state, after = optimizer.init(params), params
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, after)
        after = jax.tree.map(jnp.add, after, updates)

    def moving(names, layer):
        if trainable == ALL:
            return True
        below = layer is None or layer < trainable.first_layer
        return not below and names[-2] in trainable.matrices

    wanted = reference(name, params, gradients, moving, 2.0, 0.3, steps=10)
    before, got = unstack(params), unstack(after)
    assert got.keys() == wanted.keys()
    for key, array in got.items():
        if moving(*key):
            change = np.abs(wanted[key] - before[key]).max()
            assert change > 1e-4
            # Two float32 spacings of a parameter of size 1 and 2e-4 of the change.
            error = np.abs(array - wanted[key]).max()
            assert error < 2.4e-7 + 2e-4 * change, key
        else:
            np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize("name", SOME)
def test_norms_do_not_decay(name):
    params, _ = trees(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(choice_of(name, weight_decay=0.5, warmup=0), 10)
    updates = optimizer.update(zeros, optimizer.init(params), params)[0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        assert bool(jnp.any(leaf)) == (path[-1].key != "scale"), path


def state_bytes(choice, config, trainable=ALL):
    """Bytes of the optimizer's arrays, and their shapes by dtype."""
    params = decoder.abstract_params(config)
    optimizer = make_optimizer(choice, 10, trainable)
    leaves = jax.tree.leaves(jax.eval_shape(optimizer.init, params))
    return sum(x.size * x.dtype.itemsize for x in leaves)


def small(leaves_bytes, parameters, each):
    """Whether bytes are `each` a parameter, but for a few counters."""
    return 0 <= leaves_bytes - each * parameters < 64


@pytest.mark.parametrize(
    "name, fields, each",
    [
        ("adamw", {}, 8),
        ("adamw", {"moment_dtype": "bfloat16"}, 6),
        ("adamw", {"second_moment_dtype": "bfloat16"}, 6),
        ("adamw", BOTH, 4),
        ("sgd", {}, 4),
        ("sgd", {"moment_dtype": "bfloat16"}, 2),
        ("sgd", {"momentum": 0.0}, 0),
    ],
)
def test_bytes_a_parameter_of_llama2_7b(name, fields, each):
    config = sizes("llama2_7b")
    found = state_bytes(choice_of(name, **fields), config)
    assert small(found, decoder.parameter_count(config), each)


def test_bytes_of_muon_and_adafactor_on_llama2_7b():
    config = sizes("llama2_7b")
    layers, D, F, V = 32, 4096, 11008, 32000
    matrices = layers * (4 * D * D + 3 * D * F)
    others = decoder.parameter_count(config) - matrices
    assert others == 2 * V * D + (2 * layers + 1) * D
    for fields, bytes_matrix, bytes_other in (({}, 4, 8), (BOTH, 2, 4)):
        found = state_bytes(choice_of("muon", **fields), config)
        assert small(found - bytes_matrix * matrices, others, bytes_other)
    means = layers * (4 * 2 * D + 3 * (D + F)) + 2 * (V + D)
    norms = (2 * layers + 1) * D
    # Besides: places that optax fills with one zero, and a count for every layer.
    found = state_bytes(choice_of("adafactor"), config)
    assert 0 <= found - 4 * (means + norms) < 4 * 32 * 20


@pytest.mark.parametrize("name", CHOICES)
def test_what_stays_has_no_state(name):
    config = sizes("llama2_7b")
    whole = state_bytes(choice_of(name), config)
    last = Trainable(31, ("gate", "up", "down"))
    found = state_bytes(choice_of(name), config, last)
    moving = 3 * 4096 * 11008
    each = {"adamw": 8, "sgd": 4, "muon": 4}
    if name == "adafactor":
        assert 0 < found < whole / 50
    else:
        assert small(found, moving, each[name])


@pytest.mark.parametrize("trainable", MOVING, ids=moves)
@pytest.mark.parametrize("fields", [{}, BOTH], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHOICES)
def test_the_states_structure_stays_and_its_arrays_are_like_parameters(
    name, fields, trainable
):
    params = decoder.abstract_params(CONFIG)
    optimizer = make_optimizer(choice_of(name, **fields), 10, trainable)
    before = jax.eval_shape(optimizer.init, params)
    updates, after = jax.eval_shape(optimizer.update, params, before, params)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert jax.tree.leaves(before) == jax.tree.leaves(after)
    assert updates == params
    if name == "adafactor":
        return
    shapes = {
        tuple(k.key for k in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    wanted = "bfloat16" if fields else "float32"
    for path, leaf in jax.tree_util.tree_leaves_with_path(before):
        names = tuple(k.key for k in path if hasattr(k, "key"))
        names = tuple(name for name in names if isinstance(name, str))
        names = names[1:] if names[:1] in (("muon",), ("adamw",)) else names
        if leaf.ndim == 0:
            assert leaf.dtype == jnp.int32
            continue
        assert leaf.dtype == wanted
        layers, *rest = shapes[names]
        assert leaf.shape == (layers - trainable.first_layer, *rest), path


def as_bits(tree):
    return [np.atleast_1d(x).view(np.uint8) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", SOME)
def test_a_resumed_run_is_bit_equal_with_bfloat16_moments(name, tmp_path):
    """Through a checkpoint, which holds every kind of state."""
    params, gradients = trees(4)
    optimizer = make_optimizer(choice_of(name, **BOTH), 10)
    update = jax.jit(optimizer.update)

    def run(state, chosen):
        for gradient in chosen:
            _, state = update(gradient, state, params)
        return state

    whole = run(optimizer.init(params), gradients)
    half = run(optimizer.init(params), gradients[:2])
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(2, half, {"step": 2})
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        stored = checkpoints.restore(optimizer.init(params)).state
    resumed = run(stored, gradients[2:])
    assert jax.tree.structure(resumed) == jax.tree.structure(whole)
    for left, right in zip(as_bits(whole), as_bits(resumed), strict=True):
        np.testing.assert_array_equal(left, right)


TINY = ModelConfig(61, 16, 24, 2, 4, 2, 4, initializer_range=0.3)
RATES = {"adamw": 1e-2, "adafactor": 1e-2, "sgd": 0.3, "muon": 3e-2}


@pytest.mark.parametrize("name", SOME)
def test_the_loss_falls(name):
    choice = plain_optimizer(
        name, RATES[name], schedule="constant", momentum=0.9, **BOTH
    )
    optimizer = make_optimizer(choice, 40)
    step = steps.make_train_step(TINY, plain_loss(), RoleRows(0, 2, 0), optimizer)
    rng = np.random.default_rng(0)
    batch = Batch(
        tokens_BT=rng.integers(0, 61, (2, 12)),
        segment_ids_BT=np.ones((2, 12), np.int32),
        positions_BT=np.tile(np.arange(12), (2, 1)),
        weights_BT=np.ones((2, 12), np.float32),
    )
    state = steps.init_state(decoder.init_params(TINY, 0), optimizer)
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch, None)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"moment_dtype": "float16"},
            "moment_dtype='float16'; choose one of float32, ",
        ),
        ({"second_moment_dtype": "int8"}, "second_moment_dtype='int8'; choose one of"),
        ({"b1": 1.0}, r"b1=1\.0; use 0 .none. to below 1"),
        ({"b2": -0.1}, r"b2=-0\.1; use 0 .none. to below 1"),
        ({"clip": -1.0}, r"clip=-1\.0; use 0 or more"),
        ({"weight_decay": -0.1}, r"weight_decay=-0\.1; use 0 or more"),
        ({"final": 1.5}, r"final=1\.5 is a part of the peak; use 0 to 1"),
    ],
)
def test_bad_choices_are_named(fields, message):
    with pytest.raises(ValueError, match=rf"optimizer\.{message}"):
        read(OPTIMIZER, "config.optimizer", **fields)


ON_A_MESH = """
import json, re, jax, numpy as np
from jax_surgery.parallel import mesh as meshes
from jax_surgery.models import sharding
from jax_surgery.optim.optimizer import make_optimizer
from optim_cases import trees
from test_optimizers import BOTH, choice_of, some
params, (gradient,) = trees(1)
params, gradient = some(params), some(gradient)
KINDS = {"all-gather", "all-reduce", "all-to-all", "collective-permute"}
for name in ("adamw", "muon"):
    choice = choice_of(name, weight_decay=0.1, clip=0.0, **BOTH)
    optimizer = make_optimizer(choice, 10)
    arguments = gradient, optimizer.init(params), params
    wanted = jax.jit(optimizer.update)(*arguments)
    with jax.set_mesh(meshes.make_mesh(meshes.MeshShape(tp=2))):
        placed = [sharding.place(tree) for tree in arguments]
        run = jax.jit(lambda *a: sharding.constrain(optimizer.update(*a)))
        run = run.lower(*placed).compile()
        got = run(*placed)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    errors = [abs(np.float64(x) - np.float64(y)).max() for x, y in pairs]
    used = KINDS & set(re.findall(r" ([a-z-]+?)(?:-start)?\\(", run.as_text()))
    print(json.dumps({"error": max(errors), "exchanges": sorted(used)}))
"""


def some(tree):
    """A part of the model's tree that has all kinds of layouts, to compile less."""
    attention, mlp = tree["layers"]["attention"], tree["layers"]["mlp"]
    layers = {
        "attention": {name: attention[name] for name in ("q", "o")},
        "attention_norm": tree["layers"]["attention_norm"],
        "mlp": {"down": mlp["down"]},
    }
    return {"layers": layers, "head": tree["head"]}


@pytest.mark.slow
def test_steps_on_a_mesh_are_those_of_one_device():
    """AdamW's bfloat16 moments to the bit; Muon gathers no matrix on all devices."""
    adamw, muon = map(json.loads, on_devices.run(ON_A_MESH).splitlines())
    assert adamw == {"error": 0.0, "exchanges": []}
    assert muon["exchanges"] == ["all-to-all"]
    assert muon["error"] < 1e-5
