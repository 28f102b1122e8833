# SPDX-License-Identifier: Apache-2.0
"""The readers of compiled programs agree with the compiler's own analyses where both
exist, and with arithmetic where the compiler counts a loop's body once."""

import jax
import jax.numpy as jnp
import pytest
import tpu_programs

from configs import plan as plan_config
from jax_surgery.parallel import mesh as meshes
from jax_surgery.plan import lowering, topologies
from jax_surgery.plan.compiled import schedule
from jax_surgery.plan.compiled.memory import Memory
from jax_surgery.runs import settings

GENERATIONS = ["v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1"]
SCANS = {
    "v5e": ["fsdp_scan", "v5e:2x2", 3, 1024, 1024],
    "v5e, 9 layers": ["fsdp_scan", "v5e:2x2", 9, 1024, 1024],
    "v6e": ["fsdp_scan", "v6e:2x2", 3, 1024, 1024],
    "v5p": ["fsdp_scan", "v5p:2x2x1", 3, 1024, 1024],
    "v4": ["fsdp_scan", "v4:2x2x1", 3, 1024, 1024],
}
CUBE = ["fsdp_scan", "v5p:4x4x4", 2, 2048, 256]


@pytest.fixture(scope="module")
def compiled() -> dict:
    """What was read of each program, and what the compiler's analyses say of it."""
    products = {name: ["matmul", name, 8192] for name in GENERATIONS}
    asked = products | SCANS | {"cube": CUBE, "batched": ["batched", "v5e:1x1", 2, 512]}
    return dict(zip(asked, tpu_programs.run(*asked.values()), strict=True))


@pytest.mark.slow
@tpu_programs.needs_libtpu
def test_memory_is_what_memory_analysis_says(compiled):
    for name, found in compiled.items():
        assert found["arguments"] == found["xla_arguments"], name
        # The analysis leaves constants out, and the reader what the program is
        # called with: some KiB each.
        assert found["added"] == pytest.approx(found["xla_added"], abs=2**18), name
    # A quarter of the float32 weights, and of 4 x 1024 rows of bfloat16.
    assert compiled["v5e"]["arguments"] == 3 * 1024**2 * 4 // 4 + 1024 * 1024 * 2


@pytest.mark.slow
@tpu_programs.needs_libtpu
def test_products_are_what_cost_analysis_says(compiled):
    for name in GENERATIONS:
        product = compiled[name]
        assert product["flops"] == 2 * 8192**3 == product["xla_flops"]
        where = topologies.find(name)
        seconds = where.seconds(product["cycles"])
        share = product["flops"] / seconds / where.generation.peak_flops
        # Of v6e the clock is not certain.
        lowest, highest = (0.8, 1) if where.generation.clock_is_certain else (0.6, 1)
        assert lowest < share < highest, (name, share)
    batched = compiled["batched"]
    assert batched["flops"] == 2 * 2 * 4 * 512 * 512 * 128 == batched["xla_flops"]


@pytest.mark.slow
@tpu_programs.needs_libtpu
def test_loops_count_as_often_as_they_run(compiled):
    for name in SCANS:
        layers = SCANS[name][2]
        # Gathered in bfloat16, forward and once for recomputation and backward.
        gathered = compiled[name]["bytes"]["all-gather"]
        assert gathered == 2 * layers * 2 * 1024**2, name
        assert compiled[name]["flops"] == 4 * layers * 2 * 1024**3, name
    three, nine = compiled["v5e"], compiled["v5e, 9 layers"]
    assert three["bytes"]["reduce-scatter"] == 3 * 2 * 1024**2
    # XLA counts each loop's body once, however often it runs.
    assert three["xla_flops"] == pytest.approx(4 * 2 * 1024**3, rel=0.02)
    assert nine["xla_flops"] == pytest.approx(three["xla_flops"], rel=0.001)
    inside = ("forward mlp", "recompute mlp", "backward mlp")
    for name in inside:
        assert nine["scopes"][name] == 3 * three["scopes"][name]
    assert sum(three["scopes"][name] for name in inside) > 0.5 * three["cycles"]
    # Over a cube whose axes are said to be rings, in the mesh's order, gathers are
    # gathers; else the compiler makes them all-reduces, which cost twice as much.
    assert compiled["cube"]["bytes"] == {
        "all-gather": 2 * 2 * 2 * 2048**2,
        "all-reduce": 2 * 2 * 2048**2,
    }


def test_on_cpu_a_loop_counts_like_what_cost_analysis_says_of_it_unrolled():
    def layer(x, w):
        return jnp.tanh(x @ w), None

    def scanned(weights, x):
        return jax.lax.scan(layer, x, weights)[0]

    def unrolled(weights, x):
        for w in weights:
            x, _ = layer(x, w)
        return x

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((5, 64, 64), (32, 64))]
    loop, flat = (jax.jit(f).lower(*shapes).compile() for f in (scanned, unrolled))
    counts = [schedule.read(c.as_text(), timed=False).flops for c in (loop, flat)]
    assert counts == 2 * [flat.cost_analysis()["flops"]] == 2 * [5 * 2 * 32 * 64 * 64]
    assert loop.cost_analysis()["flops"] < counts[0] / 4


@pytest.mark.parametrize("name", ["step", "moments", "ridge"])
def test_on_cpu_what_lies_on_a_chip_is_what_memory_analysis_says(tiny_model, name):
    config = plan_config.get_config("surgery")
    config.model, config.surgery.optimizer.name = tiny_model.folder, "natural"
    config.surgery.data.context = 16
    asked = settings.from_config(config)
    mesh = meshes.make_mesh(asked.surgery.mesh, jax.devices())
    call = lowering.call(name, asked, tiny_model.config, mesh)
    lowered = lowering.lower(name, asked, tiny_model.config, mesh)
    analysis = lowered.compile().memory_analysis()
    parts = call.memory(Memory(analysis.argument_size_in_bytes, 7))
    assert parts["temporaries"] == 7  # no padding on CPU
    taken = {
        "step": ("parameters", "optimizer", "reference", "batch"),
        "moments": ("parameters", "statistics", "batch"),
        "ridge": ("statistics",),
    }[name]
    sizes = jax.tree.map(lambda leaf: leaf.nbytes, tiny_model.params)
    # A forward pass for statistics reads neither the last norm nor the output head,
    # which lie there all the same.
    unread = {"head": sizes["head"], "norm": sizes["final_norm"]}
    expected = analysis.argument_size_in_bytes
    if name == "moments":
        expected += sum(jax.tree.leaves(unread))
    elif name == "ridge":
        expected -= 4  # the ridge itself, a scalar that no group holds
    assert sum(parts[group] for group in taken) == expected
    # The model and its state lie there whatever program runs.
    assert parts["parameters"] == sum(
        x.nbytes for x in jax.tree.leaves(tiny_model.params)
    )
