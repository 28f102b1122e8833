# SPDX-License-Identifier: Apache-2.0
"""The plan of a subspace removal as text: does each of its programs fit a slice."""

from typing import Any

from jax_surgery.models.config import ModelConfig

GIB = 2**30


def headline(results: dict[str, Any], config: ModelConfig) -> str:
    """What is planned, in three lines."""
    axes = " x ".join(f"{name} {size}" for name, size in results["mesh"].items())
    several = results["num_slices"]
    slices = f" x {several} slices" if several > 1 else ""
    return (
        f"{results['model']} ({config.num_layers} layers, width {config.hidden_size}) "
        f"on {results['topology']}{slices}: {results['chips']} chips, mesh {axes}\n"
        f"removal from {', '.join(results['matrices'])}: {results['rows']} rows of "
        f"{results['context']} tokens a batch, factors of rank {results['rank']}\n"
        f"each program compiled for the slice; GiB a chip, of {results['has'] / GIB:.2f}"
    )


def line(name: str, found: dict[str, Any]) -> str:
    """One program, in one line."""
    text = f"  {name:8s} {found['needs'] / GIB:6.2f}"
    if not found["fits"]:
        text += "  DOES NOT FIT"
    if not found["memory"]:
        return text
    parts = {k: v for k, v in found["memory"].items() if k != "total"}
    shown = [f"{k} {v / GIB:.2f}" for k, v in parts.items() if v > 0.005 * GIB]
    text += f"  ({', '.join(shown)})"
    text += f"\n           {found['counted_flops']:.3g} FLOPs on all chips, from shapes"
    if "flops" in found:
        unsure = "" if found["clock_is_certain"] else " (+-30 %: the clock is a guess)"
        loops = found["unknown_loops"]
        once = f"; {loops} loops of unknown length count once" if loops else ""
        text += (
            f"; {found['flops']:.3g} in the compiled products\n           at least "
            f"{found['seconds_at_least']:.3f} s{unsure}{once}; compiled in "
            f"{found['compile_seconds']:.0f} s"
        )
    return text


def verdict(results: dict[str, Any]) -> str:
    """Whether a removal fits, and by how much."""
    name, needs, has = results["largest"], results["needs"], results["has"]
    if results["fits"]:
        return f"The largest is {name}: it fits, {(has - needs) / GIB:.2f} GiB free."
    return (
        f"The largest is {name}: {(needs - has) / GIB:.2f} GiB too much. Take a larger "
        "slice (config.topology), a shorter config.surgery.data.context, or fewer "
        "matrices (config.surgery.optimizer.matrices)."
    )
