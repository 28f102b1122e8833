# SPDX-License-Identifier: Apache-2.0
"""What a step needs on the devices that are here, before any weights are loaded."""

import dataclasses

import jax

from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import mesh as meshes
from jax_surgery.plan import lowering, programs
from jax_surgery.plan.compiled import memory
from jax_surgery.plan.compiled.memory import Memory
from jax_surgery.plan.settings import PlanSettings


def step_bytes(surgery: SurgerySettings, config: ModelConfig) -> int:
    """Bytes per device of all that lies there while a step of a run is taken.

    The step is compiled for the devices that are here, and the compiler says it. A run
    that keeps to a budget also holds its best point and a running mean.

    Raises:
      ValueError: something that does not divide over the devices.
    """
    steps = surgery.steps or surgery.optimizer.warmup + 1  # 0: the run chooses later
    surgery = dataclasses.replace(surgery, steps=steps)
    plan = PlanSettings(
        run="plan",
        program="step",
        model=surgery.model,
        topology="",  # the devices here
        num_slices=1,
        rows=0,
        fast=True,
        neighbours="no",
        surgery=surgery,
    )
    mesh = meshes.make_mesh(surgery.mesh)
    call = lowering.call("step", plan, config, mesh)
    try:
        with jax.set_mesh(mesh):
            compiled = call.function.lower(*call.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if found := memory.out_of_memory(str(error)):  # of a TPU
            return int(found[0])
        raise
    said = compiled.memory_analysis()
    added = said.temp_size_in_bytes + said.output_size_in_bytes
    total = call.memory(
        Memory(said.argument_size_in_bytes, added - said.alias_size_in_bytes)
    )["total"]
    if not surgery.retain.budget:
        return total
    params = call.arguments[0].params
    moving = jax.eval_shape(surgery.trainable(config).cut, params)
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (moving, params)]
    return total + 2 * programs.bytes_per_chip(params) * sizes[0] // sizes[1]
