# SPDX-License-Identifier: Apache-2.0
"""Compiles small programs for TPUs, in a process of its own, for tests.

python tpu_programs.py '[["fsdp_scan", "v5e:2x2", 3, 1024, 1024]]' prints what was read
of each program as JSON.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# This file is run as a program too, from any folder.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import partition
from jax_surgery.plan import topologies
from jax_surgery.plan.compiled import dump
from jax_surgery.plan.compiled.memory import out_of_memory

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="compiling for a TPU needs libtpu: pip install '.[plan]'",
)
bf16 = jnp.bfloat16


def sharding(devices, *spec):
    # Neighbours in the mesh are neighbours in the slice.
    order = mesh_utils.create_device_mesh((len(devices),), devices=devices)
    mesh = Mesh(order, ("fsdp",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, P(*spec))


def abstract(shape, where, dtype=bf16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def matmul(devices, size):
    """[size, size] by [size, size] on one chip."""
    array = abstract((size, size), sharding(devices[:1]))
    return jax.jit(lambda a, b: a @ b).lower(array, array)


def batched(devices, batch, size):
    """A batched product, as attention's are."""
    array = abstract((batch, size, 4, 128), sharding(devices[:1]))

    def scores(q, k):
        return jnp.einsum("bthd,bshd->bhts", q, k)

    return jax.jit(scores).lower(array, array)


def fsdp_scan(devices, layers, width, rows):
    """A step of layers whose weights are gathered one at a time, rows a chip."""
    sharded = sharding(devices, "fsdp", None)
    whole = sharding(devices, None, None)

    def constrain(x, where):
        return jax.lax.with_sharding_constraint(x, where)

    @jax.custom_vjp
    def gather(w):
        return constrain(w.astype(bf16), whole)

    def backward(_, g):
        return (constrain(g, sharded).astype(jnp.float32),)

    gather.defvjp(lambda w: (gather(w), None), backward)

    def layer(x, w):
        with jax.named_scope("mlp"):
            return jnp.tanh(x @ gather(w)), None

    def step(weights, x):
        def loss(weights):
            y, _ = jax.lax.scan(jax.checkpoint(layer), x, weights)
            return jnp.mean(jnp.square(y.astype(jnp.float32)))

        gradient = jax.grad(loss)(weights)
        with jax.named_scope("optimizer"):
            return weights - 0.1 * gradient

    weights = abstract(
        (layers, width, width), sharding(devices, None, "fsdp"), jnp.float32
    )
    x = abstract((rows * len(devices), width), sharded)
    return jax.jit(step, donate_argnums=0).lower(weights, x)


def gathered_scan(devices, width, most=meshes.MOST_ALONG_ONE_AXIS):
    """A step of two layers on the mesh of a run, whose weights `partition.gather`
    gathers; `most`: see `meshes.MOST_ALONG_ONE_AXIS`."""
    meshes.MOST_ALONG_ONE_AXIS = most
    mesh, spec = meshes.make_mesh(meshes.MeshShape(), devices), ("fsdp", "tp")

    def layer(x, w):
        return jnp.tanh(x @ partition.gather(w, spec, "bfloat16")), None

    def step(weights, x):
        def loss(weights):
            y, _ = jax.lax.scan(jax.checkpoint(layer), x, weights)
            return jnp.mean(jnp.square(y.astype(jnp.float32)))

        return weights - 0.1 * jax.grad(loss)(weights)

    stack = NamedSharding(mesh, meshes.spec(None, *spec))
    weights = abstract((2, width, width), stack, jnp.float32)
    rows = NamedSharding(mesh, meshes.spec(meshes.ROWS, None))
    x = abstract((256 * len(devices), width), rows)
    with jax.set_mesh(mesh):
        return jax.jit(step, donate_argnums=0).lower(weights, x)


def too_large(devices):
    """A program that fits no chip: it squares 200 GiB."""
    array = abstract((200, 2**29), sharding(devices[:1]))
    return jax.jit(jnp.square).lower(array)


PROGRAMS = {
    f.__name__: f for f in (matmul, batched, fsdp_scan, gathered_scan, too_large)
}


def count_devices(topology, num_slices=1):
    devices = topologies.devices(topology, num_slices)
    slices = sorted({getattr(device, "slice_index", 0) for device in devices})
    return {"devices": len(devices), "slices": slices}


def describe(name, topology, *arguments):
    if name == "count_devices":
        return count_devices(topology, *arguments)
    lowered = PROGRAMS[name](topologies.devices(topology), *arguments)
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            found = out_of_memory(str(error))
            return dict(zip(("needed", "available"), found or (), strict=True))
        memory, schedule = dump.read_memory(folder), dump.read_schedule(folder)
    analysis = compiled.memory_analysis()
    assert memory and schedule and analysis
    return {
        "cycles": schedule.cycles,
        "flops": schedule.flops,
        "bytes": schedule.bytes_by_kind(),
        "scopes": schedule.cycles_by_scope(),
        "arguments": memory.arguments,
        "added": memory.added,
        "xla_flops": compiled.cost_analysis()["flops"],
        "xla_arguments": analysis.argument_size_in_bytes,
        "xla_added": analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes,
    }


def command(*programs, only_compile=False) -> list[str]:
    mode = ["only_compile"] if only_compile else []
    return [sys.executable, os.path.abspath(__file__), json.dumps(programs), *mode]


def run(*programs) -> list[dict]:
    """`describe` of each program, by a process of its own, which must say no more."""
    done = subprocess.run(
        command(*programs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "libtpu's warnings are to be silenced"
    return json.loads(done.stdout)


if __name__ == "__main__":
    programs = json.loads(sys.argv[1])
    if sys.argv[2:] == ["only_compile"]:
        for name, topology, *arguments in programs:
            PROGRAMS[name](topologies.devices(topology), *arguments).compile()
    else:
        print(json.dumps([describe(*program) for program in programs]))
