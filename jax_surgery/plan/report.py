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


def program_text(name: str, found: dict[str, Any], settings: PlanSettings) -> str:
    """Memory, operations and collectives of one program, and bounds of its speed.

    Args:
      name: of `programs.PROGRAMS`.
      found: see `ask.ask`.
    """
    if settings.program == "step" and name == "step":
        return _step_text(found)
    text = f"  {name:8s} {found['needs'] / GIB:6.2f} GiB per chip"
    if not found["fits"]:
        text += "  DOES NOT FIT"
    if not found["memory"]:
        return text
    parts = {k: v for k, v in found["memory"].items() if k != "total"}
    shown = [
        f"{SHOWN.get(k, k)} {v / GIB:.2f}" for k, v in parts.items() if v > 0.005 * GIB
    ]
    text += f"  ({', '.join(shown)})"
    text += f"\n           {found['counted_flops']:.3g} FLOPs on all chips, from shapes"
    text += f"; {found['flops']:.3g} in the compiled products"
    if "seconds_at_least" in found:
        loops = found["unknown_loops"]
        once = f"; {loops} loops of unknown length count once" if loops else ""
        text += (
            f"\n           at least {found['seconds_at_least']:.3f} s{_unsure(found)}"
            f"{once}; compiled in {found['compile_seconds']:.0f} s"
        )
    return text


def _unsure(found: dict[str, Any]) -> str:
    return "" if found["clock_is_certain"] else " (+-30 %: the chip's clock is a guess)"


def _step_text(found: dict[str, Any]) -> str:
    lines = ["", "step: memory, GiB per chip"]
    parts = found["memory"] or {}
    lines += [f"  {k:12s}{v / GIB:6.2f}" for k, v in parts.items() if k != "total"]
    verdict = "" if found["fits"] else "  DOES NOT FIT"
    lines.append(f"  {'total':12s}{found['needs'] / GIB:6.2f}{verdict}")
    if "collectives" in found:
        sizes = [f"{k} {size / 1e9:.2f}" for k, size in found["collectives"].items()]
        lines += ["", "collectives per step, GB of the tensors on each chip"]
        lines.append("  " + (", ".join(sizes) or "none"))
    if speed := found.get("speed"):
        lines += _speed_lines(speed, sum(found["kernel_calls"].values()))
    return "\n".join(lines)


def _speed_lines(speed: dict[str, Any], kernel_calls: int) -> list[str]:
    needed = (
        f"  {speed['model_flops']:.3g} that the model needs (6 per weight and token, "
        f"and causal attention), {speed['model_flops'] / speed['chips']:.3g} per chip"
    )
    compiled = (
        f"  {speed['product_flops_a_chip']:.3g} per chip in the compiled products, "
        "recomputation included, attention kernels not"
    )
    bound = (
        f"  {speed['seconds_at_least']:.3f} s: scheduled cycles; without waiting for "
        "other chips, and without attention kernels"
    )
    last = (
        f"at most {speed['tokens_per_second_at_most']:,.0f} tokens per second, MFU at "
        f"most {speed['mfu_at_most']:.1%}"
    )
    kernel_seconds = (
        speed["kernel_flops_a_chip"]
        / KERNEL_SHARE
        * speed["ideal_seconds"]
        / (speed["model_flops"] / speed["chips"])
    )
    lines = [
        "",
        "operations, FLOPs per step",
        needed,
        compiled,
        "",
        "static lower bound of the step time, from the compiled schedule"
        + _unsure(speed),
        bound,
    ]
    if kernel_calls:
        lines.append(
            f"  {kernel_calls} kernel calls would add {kernel_seconds:.3f} s at "
            f"{KERNEL_SHARE:.0%} of the peak (an assumption)"
        )
    if speed["unknown_loops"]:
        lines.append(
            f"  {len(speed['unknown_loops'])} loops of unknown length count once"
        )
    lines += [
        f"  {speed['ideal_seconds']:.3f} s: the model's operations at the chips' peak",
        last,
    ]
    return lines


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
