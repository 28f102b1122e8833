# SPDX-License-Identifier: Apache-2.0
"""Meshes: shapes, errors, specs of parameters; twenty steps agree on any of them."""

import itertools
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
import tpu_programs
from jax.sharding import PartitionSpec as P
from tpu_programs import needs_libtpu

from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import decoder, sharding
from jax_surgery.models.published import SIZES
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel.mesh import MeshShape


def test_zeros_are_filled_in():
    assert meshes.resolve(MeshShape(), 8) == MeshShape(1, 8, 1)
    assert meshes.resolve(MeshShape(tp=2), 8) == MeshShape(1, 4, 2)
    assert meshes.resolve(MeshShape(data=2, fsdp=4), 8) == MeshShape(2, 4, 1)
    assert meshes.resolve(MeshShape(tp=4), 32, slices=2) == MeshShape(2, 4, 4)


@pytest.mark.parametrize(
    "shape, devices, slices, message",
    [
        (MeshShape(tp=3), 8, 1, r"config.mesh.tp=3 does not divide 8.*work: 1, 2, 4"),
        (MeshShape(data=5), 8, 1, r"config.mesh.data=5 does not divide 8.*4"),
        (MeshShape(fsdp=4), 8, 1, r"config.mesh.fsdp=4.*it is 8; use 8, or 0"),
        (MeshShape(data=3), 32, 2, r"data=3 must be a multiple of the 2 TPU slices"),
    ],
)
def test_wrong_shapes_say_what_works(shape, devices, slices, message):
    with pytest.raises(ValueError, match=message):
        meshes.resolve(shape, devices, slices)
    with pytest.raises(ValueError, match=r"config.mesh.fsdp=-1; use 0 or more"):
        MeshShape(fsdp=-1)


def chips(*sides):
    """Stand-ins for the chips of a slice."""
    places = itertools.product(*map(range, sides))
    return [types.SimpleNamespace(coords=(*place, 0)[:3]) for place in places]


@pytest.mark.parametrize(
    "fsdp, devices, sizes",
    [
        (32, chips(4, 8), (32, 1)),
        (64, chips(8, 8), (8, 8)),
        (64, chips(4, 4, 4), (16, 4)),
        (256, chips(4, 8, 8), (32, 8)),
        (64, chips(8, 16), (4, 16)),  # with tp=2
        (96, [object()] * 96, (12, 8)),  # no chips of a grid
        (67, chips(67, 1), (67, 1)),
    ],
)
def test_fsdp_has_two_axes_on_large_slices(fsdp, devices, sizes):
    assert meshes.two_axes(fsdp, devices) == sizes


def test_a_spec_names_the_axes_that_the_mesh_has():
    outer, inner = meshes.FSDP
    assert meshes.spec(None, "fsdp", "tp") == P(None, (outer, inner), "tp")
    assert meshes.spec(("fsdp", "tp")) == P((outer, inner, "tp"))
    assert meshes.spec((outer,), meshes.ROWS) == P(outer, ("data", outer, inner))


GRADIENTS = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from jax_surgery.parallel import mesh as meshes, partition
rng = np.random.default_rng(0)
# Whole numbers, whose sums are the same in any order.
w, x = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((16, 6), (8, 4, 16)))
spec = ("fsdp", "tp")
def loss(w, x):
    gathered = jnp.square(x @ partition.gather(w, spec, "float32"))
    copied = jnp.einsum("bti,bij->btj", x, partition.copies(w, spec, "float32"))
    return jnp.sum(gathered) + jnp.sum(copied**2 * 3)
def gradient(most):
    meshes.MOST_ALONG_ONE_AXIS = most
    mesh = meshes.make_mesh(meshes.MeshShape())
    assert [mesh.shape[axis] for axis in meshes.FSDP] == [most, 8 // most]
    place = lambda *axes: NamedSharding(mesh, meshes.spec(*axes))
    with jax.set_mesh(mesh):
        put = jax.device_put(w, place(*spec)), jax.device_put(x, place(meshes.ROWS))
        return np.asarray(jax.jit(jax.grad(loss))(*put))
one, two = gradient(8), gradient(4)
assert one.any()
np.testing.assert_array_equal(one, two)
np.testing.assert_array_equal(one, np.einsum("bti,btj->ij", x, 8 * x @ w))
"""


def test_gradients_over_two_axes_have_the_same_bits():
    on_devices.run(GRADIENTS)


@needs_libtpu
def test_gradients_over_64_chips_are_reduce_scattered():
    """Over one axis the compiler all-reduces them; over two it does not."""
    two, one = tpu_programs.run(
        ["gathered_scan", "v5p:4x4x4", 4096], ["gathered_scan", "v5p:4x4x4", 4096, 64]
    )
    whole = 2 * 4096**2 * 2  # bytes: two layers in bfloat16
    assert set(two["bytes"]) == {"all-gather", "reduce-scatter"}
    # All of it along 16 chips, and a 16th along 4.
    assert two["bytes"]["reduce-scatter"] == whole * 17 / 16
    assert two["bytes"]["all-gather"] == one["bytes"]["all-gather"] == 2 * whole
    assert one["bytes"]["all-reduce"] == whole


def test_a_dimension_that_does_not_divide_names_its_field_and_what_works():
    params = decoder.abstract_params(SIZES["llama2_70b"])
    sharding.check(params, {"data": 1, "fsdp": 64, "tp": 8})
    with pytest.raises(ValueError) as error:
        sharding.check(params, {"data": 1, "fsdp": 24, "tp": 16})
    text = str(error.value)
    assert "hidden_size=8192 does not divide over config.mesh.fsdp=24" in text
    assert "16, 32" in text
    assert "num_kv_heads=8 does not divide over config.mesh.tp=16" in text
    assert "num_heads" not in text


@pytest.mark.parametrize("name", SIZES)
def test_every_parameter_of_every_size_is_in_the_table(name):
    params = decoder.abstract_params(SIZES[name])
    sizes = {"data": 1, "fsdp": 8, "tp": 1}
    sharding.check(params, sizes)
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    on_every_device = sum(
        x.size * x.dtype.itemsize
        for path, x in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key in ("scale", "bias")
    )
    specs = sharding.specs(params, sizes["fsdp"])
    part = sum(
        x.size * x.dtype.itemsize // math.prod(sizes[axis] for axis in spec if axis)
        for x, spec in zip(
            jax.tree.leaves(params),
            jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P)),
            strict=True,
        )
    )
    assert part == (whole - on_every_device) // 8 + on_every_device
    with pytest.raises(ValueError, match="is in no architecture's layout"):
        sharding.check({"adapter": jnp.zeros((2, 2))}, sizes)


def test_moments_lie_like_their_parameters_and_other_stacks_are_split():
    params = {"layers": {"mlp": {"up": {"kernel": jnp.zeros((2, 8, 6))}}}}
    state = {"mu": params, "count": jnp.zeros(()), "rows": jnp.zeros((2, 8))}
    state["roots"] = jnp.zeros((2, 3, 8))
    found = sharding.specs(state, fsdp=4)
    up = found["mu"]["layers"]["mlp"]["up"]["kernel"]
    assert tuple(up) == (None, "fsdp", "tp")
    assert tuple(found["roots"]) == (None, None, "fsdp")
    assert tuple(found["count"]) == tuple(found["rows"]) == ()
    with pytest.raises(ValueError, match=r"roots.*does not divide.*fsdp=5"):
        sharding.specs(state, fsdp=5)


def test_each_part_of_a_batch_has_its_share_of_every_role():
    rows = RoleRows(4, 2, 6, shards=2)
    # Row 100 s + 10 r + i: part s, role r, row i.
    batch = jnp.array(
        [
            s * 100 + r * 10 + i
            for s in range(2)
            for r, n in enumerate((2, 1, 3))
            for i in range(n)
        ]
    )
    for number, role in enumerate(ROLES):
        taken = np.asarray(rows.take(batch, role))
        assert len(taken) == getattr(rows, role)
        assert (taken // 10 % 10 == number).all()
    assert rows.take(batch[:6], "update").tolist() == [10]
    with pytest.raises(ValueError, match="3 update rows do not split over 2"):
        RoleRows(2, 3, 2, shards=2)


STEPS = """
import json, sys, jax, numpy as np
from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import mesh as meshes
from jax_surgery.models import sharding
from jax_surgery.train import devices
from jax_surgery.train import step as steps
from jax_surgery.data.role_names import ROLES
from jax_surgery.optim.optimizer import make_optimizer
from plain_settings import plain_loss, plain_optimizer
CONFIG = ModelConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_layers=2,
                     num_heads=4, num_kv_heads=2, head_dim=4, tie_embeddings=TIED,
                     initializer_range=0.2)
def documents(role):
    rng = np.random.default_rng(role)
    sizes = rng.integers(3, 12, 60)
    return [Document(rng.integers(0, 40, n).astype(np.int32), np.arange(n) > 1, "")
            for n in sizes]
packers = {role: Packer(documents(i), 32, "sequences") for i, role in enumerate(ROLES)}
wanted = {"unlearn": 8, "update": 7, "retain": 8}  # 7: filled up with an empty row
def losses(shape, count, accumulate, most=32):
    meshes.MOST_ALONG_ONE_AXIS = most
    wanted["update"] = 7 if accumulate == 1 else 8
    mesh = meshes.make_mesh(shape, jax.devices()[:count])
    with jax.set_mesh(mesh):
        place = sharding.parameter_shardings(CONFIG)
        params = jax.jit(decoder.init_params, static_argnums=(0, 1), out_shardings=place)
        params, reference = params(CONFIG, 0), params(CONFIG, 1)
        rows = devices.role_rows(wanted, accumulate)
        optimizer = make_optimizer(plain_optimizer(learning_rate=1e-3), 20)
        step = steps.make_train_step(
            CONFIG, plain_loss(ascent="level", gamma=2.0), rows, optimizer,
            average="sequences", accumulate=accumulate)
        state = steps.init_state(params, optimizer)
        stream = devices.batch_stream(packers, wanted, rows, 0)
        found = []
        for _ in range(20):
            placed = next(stream).place(rows.total)
            state, metrics = step(state, placed, reference)
            found.append(float(metrics["loss"]))
        kernel = state.params["layers"]["mlp"]["up"]["kernel"]
        mu = state.opt_state[1][0].mu["layers"]["mlp"]["up"]["kernel"]
        part = [x.addressable_shards[0].data.size / x.size for x in (kernel, mu)]
    return {"losses": found, "part": part}
S = meshes.MeshShape
print(json.dumps({name: losses(S(*shape), *how) for name, shape, *how in CASES}))
"""
CASES = [
    ("one", (1, 1, 1), 1, 1),
    ("fsdp 8", (1, 8, 1), 8, 1),
    ("fsdp 4 x 2", (1, 8, 1), 8, 1, 4),
    ("fsdp 2 x 2, tp 2", (1, 4, 2), 8, 1, 2),
    ("fsdp 4, tp 2", (1, 4, 2), 8, 1),
    ("data 2, fsdp 4", (2, 4, 1), 8, 1),
]
SPLIT = [
    ("one", (1, 1, 1), 1, 1),
    ("in 2", (1, 1, 1), 1, 2),
    ("in 4", (1, 1, 1), 1, 4),
    ("fsdp 4, tp 2, in 2", (1, 4, 2), 8, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize("cases, tied", [(CASES, False), (SPLIT, True)])
def test_twenty_steps_agree_on_every_mesh_and_in_micro_batches(cases, tied):
    code = STEPS.replace("TIED", str(tied)).replace("CASES", repr(cases))
    if cases is SPLIT:  # the first case has as many rows of text as the others
        code = code.replace("7 if accumulate == 1 else 8", "8")
    printed = on_devices.run(code)
    found = json.loads(printed.splitlines()[-1])
    one = found.pop("one")
    assert one["losses"][-1] < one["losses"][0] - 0.05  # something was learned
    assert one["part"] == [1, 1]
    for name, other in found.items():
        np.testing.assert_allclose(
            other["losses"], one["losses"], rtol=2e-5, err_msg=name
        )
        if "fsdp" in name:
            split = 8 if name in ("fsdp 8", "fsdp 4 x 2") or "tp" in name else 4
            assert other["part"] == [1 / split] * 2


def test_rows_that_do_not_divide_into_micro_batches_name_what_works():
    from jax_surgery.train import devices

    with pytest.raises(
        ValueError, match=r"config.data.rows_update=7.*accumulate=4.*work: 4, 8"
    ):
        devices.role_rows({"unlearn": 8, "update": 7}, 4)
