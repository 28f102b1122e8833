# SPDX-License-Identifier: Apache-2.0
"""A plan as text: does each program fit a slice, and how fast can it be."""

from typing import Any

from jax_surgery.models.config import ModelConfig
from jax_surgery.plan.settings import PlanSettings

GIB = 2**30
# Attention kernels have no cycles in the compiler's schedule. Their time is stated
# beside the bound, at this share of the peak: an assumption, not a measurement.
KERNEL_SHARE = 0.4
# Groups of memory whose names in results.json are older than their names in the text.
SHOWN = {"kept tasks": "retained tasks"}


def headline(
    results: dict[str, Any], settings: PlanSettings, config: ModelConfig
) -> str:
    """What is planned, in three lines."""
    run, rows = settings.surgery, results["rows"]
    axes = " x ".join(f"{name} {size}" for name, size in results["mesh"].items())
    several = results["num_slices"]
    slices = f" x {several} slices" if several > 1 else ""
    first = (
        f"{results['model']} ({config.num_layers} layers, width {config.hidden_size}) "
        f"on {results['topology']}{slices}: {results['chips']} chips, mesh {axes}\n"
    )
    if settings.program == "subspace":
        what = (
            f"removal from {', '.join(results['matrices'])}: {rows} rows of "
            f"{results['context']} tokens per batch, factors of rank {results['rank']}"
        )
    else:
        count = f"{rows['unlearn']} + {rows['update']} + {rows['retain']}"
        what = (
            f"{count} rows (unlearn + update + retain) of {run.data.context} tokens "
            f"per step in {run.accumulate} micro-batches; {run.optimizer.name}, remat "
            f"{run.compute.remat}, {run.compute.dtype}, reference {run.reference}"
        )
    has = f"A program may use {results['has'] / GIB:.2f} GiB per chip."
    return f"{first}{what}\n{has}"


def program_text(name: str, found: dict[str, Any]) -> str:
    """Memory, operations and collectives of one program, and bounds of its speed.

    Args:
      name: of `programs.PROGRAMS`.
      found: see `ask.ask`.
    """
    lines = ["", f"{name}: memory, GiB per chip"]
    parts = {SHOWN.get(k, k): v for k, v in (found["memory"] or {}).items()}
    lines += [f"  {k:14s}{v / GIB:6.2f}" for k, v in parts.items() if k != "total"]
    verdict = "" if found["fits"] else "  DOES NOT FIT"
    lines.append(f"  {'total':14s}{found['needs'] / GIB:6.2f}{verdict}")
    if not found["memory"]:
        return "\n".join(lines)
    sizes = [f"{k} {size / 1e9:.2f}" for k, size in found["collectives"].items()]
    lines += ["collectives, GB of the tensors on each chip"]
    lines += ["  " + (", ".join(sizes) or "none"), "FLOPs on all chips"]
    lines.append(f"  {found['counted_flops']:.3g} that are needed, from shapes")
    lines.append(
        f"  {found['flops']:.3g} in the compiled products, recomputation included, "
        "attention kernels not"
    )
    lines.append(f"  {found['seconds_of_products']:.3f} s for these at the chips' peak")
    if "seconds_at_least" in found:
        lines += _bounds(found)
    return "\n".join(lines)


def _bounds(found: dict[str, Any]) -> list[str]:
    """What the compiled schedule says of the time of a program."""
    sure = found["clock_is_certain"]
    unsure = "" if sure else " (+-30 %: the chip's clock is a guess)"
    cycles = f"  {found['seconds_at_least']:.3f} s: scheduled cycles"
    lines = [
        f"static lower bound of the time, from the compiled schedule{unsure}",
        f"{cycles}; without waiting for other chips, and without attention kernels",
    ]
    if loops := found["unknown_loops"]:
        lines.append(f"  {loops} loops of unknown length count once")
    if speed := found.get("speed"):
        calls, ideal = sum(found["kernel_calls"].values()), speed["ideal_seconds"]
        share = speed["kernel_flops_a_chip"] * speed["chips"] / speed["model_flops"]
        if calls:
            lines.append(
                f"  {calls} kernel calls would add {share * ideal / KERNEL_SHARE:.3f} s "
                f"at {KERNEL_SHARE:.0%} of the peak (an assumption)"
            )
        lines.append(f"  {ideal:.3f} s: the model's operations at the chips' peak")
        lines.append(
            f"  at most {speed['tokens_per_second_at_most']:,.0f} tokens per second, "
            f"MFU at most {speed['mfu_at_most']:.1%}"
        )
    return [*lines, f"compiled in {found['compile_seconds']:.0f} s"]


def neighbour_line(asked: dict[str, Any]) -> str:
    """One other setting, in one line."""
    if asked["needs"] is None:
        reason = asked["why"].splitlines()[0]
        return f"  does not divide      {asked['flags']}  ({reason})"
    verdict = "fits" if asked["fits"] else "TOO MUCH"
    share = f"{asked['needs'] / GIB:6.2f} of {asked['has'] / GIB:6.2f}"
    return f"  {share} {verdict:9s}{asked['flags']}"


def _change(results: dict[str, Any]) -> str:
    """What to change of what does not fit."""
    fitting = [n for n in results["neighbours"] if n["fits"]]
    if fitting:
        same = [n for n in fitting if n["chips"] == results["chips"]]
        best = min(same or fitting, key=lambda n: n["chips"])
        return f"What fits with one change: {best['flags']}"
    tried = "No neighbour fits either. " if results["neighbours"] else ""
    less = "adafactor (config.surgery.optimizer.name)"
    if results["program"] == "subspace":
        less = "fewer matrices (config.surgery.optimizer.matrices)"
    return (
        f"{tried}Take a larger slice (config.topology), {less}, or a shorter "
        "config.surgery.data.context."
    )


def advice(results: dict[str, Any]) -> str:
    """Whether all programs fit and by how much; what to change, or what else fits."""
    name, needs, has = results["largest"], results["needs"], results["has"]
    largest = f"The largest program is {name}: " if len(results["programs"]) > 1 else ""
    if not results["fits"]:
        much = f"{(needs - has) / GIB:.2f} GiB per chip too much"
        return f"It does not fit. {largest}{much}. {_change(results)}"
    free = f"{(has - needs) / GIB:.2f} GiB ({1 - needs / has:.0%}) of each chip free."
    smaller = [
        n for n in results["neighbours"] if n["fits"] and n["chips"] < results["chips"]
    ]
    if smaller:
        free += f" It also fits fewer chips: {smaller[0]['flags']}"
    return f"It fits. {largest}{free}"
