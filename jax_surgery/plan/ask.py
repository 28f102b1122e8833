# SPDX-License-Identifier: Apache-2.0
"""Asks the compiler about one program: memory, traffic, and bounds of its speed."""

import math
import pathlib
import tempfile
import time
from typing import Any

from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.plan import lowering, programs, topologies
from jax_surgery.plan.compiled import dump, schedule
from jax_surgery.plan.settings import PlanSettings

TIMEOUT = 600  # seconds that a memory report may take


def ask(name: str, settings: PlanSettings, config: ModelConfig) -> dict[str, Any]:
    """The memory of one program and, unless `settings.fast`, its operations.

    With `settings.fast` the compiler is stopped as soon as it has assigned buffers.

    Args:
      name: of `programs.PROGRAMS`.

    Returns:
      {"needs": bytes per chip of all that lies there while it runs, "fits",
      "memory": see `Call.memory`, None where it does not fit, "counted_flops"}, and
      where it does "collectives": bytes per chip by kind, "kernel_calls": by kernel,
      "flops": of the compiled matrix products on all chips, "seconds_of_products": their
      time at the chips' peak, and compiled to the end
      "seconds_at_least", "clock_is_certain", "unknown_loops": their number (each counts
      once), "compile_seconds", and of the step "speed", see `_speed`. Of attention
      kernels FLOPs and seconds are not known. A product in float32 counts once, though
      a chip makes six passes of it.

    Raises:
      ValueError: something that does not divide over the slice.
      RuntimeError, TimeoutError: see `dump.compiled`.
    """
    where = topologies.find(settings.topology, settings.num_slices)
    # What does not divide is found here, with its own message.
    call = lowering.call(name, settings, config, lowering.mesh_of(settings))
    needed: dict[str, Any] = {"counted_flops": call.flops}
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            command = lowering.write(settings, pathlib.Path(folder, "settings"), name)
            timeout = TIMEOUT if settings.fast else math.inf
            memory, program = dump.compiled(
                command, call.name, whole=not settings.fast, timeout=timeout
            )
    except dump.DoesNotFit as error:
        return needed | {"needs": int(error.needed), "fits": False, "memory": None}
    parts = call.memory(memory)
    found = needed | {
        "needs": parts["total"],
        "fits": parts["total"] <= where.hbm_bytes,
        "memory": parts,
        "collectives": program.bytes_by_kind(),
        "kernel_calls": program.kernel_calls(),
        "flops": program.flops * where.chips,
        "seconds_of_products": program.flops / where.generation.peak_flops,
    }
    if settings.fast:
        return found
    found |= {
        "seconds_at_least": where.seconds(program.cycles),
        "clock_is_certain": where.generation.clock_is_certain,
        "unknown_loops": len(program.unknown_loops),
        "compile_seconds": time.perf_counter() - began,
    }
    if name == "step":
        found["speed"] = _speed(program, where, config, settings, call)
    return found


def kernel_flops(
    config: ModelConfig, tokens: int, context: int, compute: Compute
) -> float:
    """FLOPs of the attention kernels of a step: forward, again where the backward pass
    recomputes it, and 2.5 times that backward (five products against two)."""
    forward = 2.0 * tokens * config.num_layers * context * config.num_heads
    forward *= config.head_dim  # two products over half of the context
    again = compute.remat == "full"
    return forward * (1 + again + 2.5)


def _speed(
    program: schedule.Schedule,
    where: topologies.Slice,
    config: ModelConfig,
    settings: PlanSettings,
    call: programs.Call,
) -> dict[str, Any]:
    """Operations and bounds of a step, from its compiled schedule."""
    _, batch, _ = call.arguments
    tokens, context = batch.tokens_BT.size, settings.surgery.data.context
    kernels = kernel_flops(config, tokens, context, settings.surgery.compute)
    seconds = where.seconds(program.cycles)
    return {
        "tokens": tokens,
        "chips": where.chips,
        "model_flops": call.flops,
        "product_flops_a_chip": program.flops,
        "kernel_flops_a_chip": kernels / where.chips,
        "seconds_at_least": seconds,
        "ideal_seconds": call.flops / where.peak_flops,
        "tokens_per_second_at_most": tokens / seconds,
        "mfu_at_most": call.flops / (seconds * where.peak_flops),
        "cycles_by_category": program.cycles_by_category(),
        "cycles_by_scope": program.cycles_by_scope(3),
        "clock_is_certain": where.generation.clock_is_certain,
        "unknown_loops": program.unknown_loops,
    }
