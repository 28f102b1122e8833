# SPDX-License-Identifier: Apache-2.0
"""A plan as text and as a picture: does a step fit a slice, and how fast can it be."""

import io
from typing import Any

from jax_surgery.models import flops
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig

GIB = 2**30
PARTS = ("parameters", "optimizer", "reference", "batch", "temporaries")
COLOURS = {
    "parameters": "#4c72b0",
    "optimizer": "#dd8452",
    "reference": "#8172b3",
    "batch": "#937860",
    "temporaries": "#55a868",
    "needs": "#c44e52",
}
# Attention kernels have no cycles in the compiler's schedule. What they take is said
# beside the bound, at this share of the peak: an assumption, not a measurement.
KERNEL_SHARE = 0.4


def model_flops(config: ModelConfig, tokens: int, context: int) -> float:
    """FLOPs that a step must do: 6 a weight and token, and causal attention, which
    spans half of the context. Recomputation and the reference do not count."""
    return flops.training_flops(config, tokens, context / 2)


def kernel_flops(
    config: ModelConfig, tokens: int, context: int, compute: Compute
) -> float:
    """FLOPs of the attention kernels of a step: forward, again where the backward pass
    recomputes it, and 2.5 times that backward (five products against two)."""
    forward = 2.0 * tokens * config.num_layers * context * config.num_heads
    forward *= config.head_dim  # two products over half of the context
    again = compute.remat == "full"
    return forward * (1 + again + 2.5)


def headline(settings: Any, config: ModelConfig, where: Any, mesh: dict, rows: Any):
    """What is planned, in two lines."""
    run = settings.surgery
    count = f"{rows.unlearn} + {rows.update} + {rows.retain}"
    axes = " x ".join(f"{name} {size}" for name, size in mesh.items())
    slices = f" x {settings.num_slices} slices" if settings.num_slices > 1 else ""
    return (
        f"{settings.model} ({config.num_layers} layers, width {config.hidden_size}) on "
        f"{where.name}{slices}: {where.chips} chips, mesh {axes}\n"
        f"{count} rows (unlearn + update + retain) of {run.data.context} tokens a "
        f"step in {run.accumulate} micro-batches; {run.optimizer.name}, remat "
        f"{run.compute.remat}, {run.compute.dtype}, reference {run.reference}"
    )


def _gib(size: float) -> str:
    return f"{size / GIB:6.2f}"


def as_text(results: dict[str, Any]) -> str:
    """Memory, operations, collectives and bounds of the step itself."""
    has, needs = results["has"], results["needs"]
    lines = ["", f"memory, GiB a chip (has {has / GIB:.2f})"]
    if results["memory"]:
        lines += [f"  {p:12s}{_gib(results['memory'][p])}" for p in PARTS]
    verdict = (
        f"fits, {(has - needs) / GIB:.2f} free"
        if results["fits"]
        else f"DOES NOT FIT: {(needs - has) / GIB:.2f} too much"
    )
    lines.append(f"  {'total':12s}{_gib(needs)}  {verdict}")
    if "collectives" in results:
        sizes = [f"{k} {size / 1e9:.2f}" for k, size in results["collectives"].items()]
        lines += ["", "collectives a step, GB of the tensors on each chip"]
        lines.append("  " + (", ".join(sizes) or "none"))
    if speed := results.get("speed"):
        lines += _speed_lines(speed, sum(results["kernel_calls"].values()))
    return "\n".join(lines)


def _speed_lines(speed: dict[str, Any], kernel_calls: int) -> list[str]:
    unsure = (
        "" if speed["clock_is_certain"] else " (this chip's clock is a guess: +-30 %)"
    )
    needed = (
        f"  {speed['model_flops']:.3g} that the model needs (6 a weight and token, and "
        f"causal attention), {speed['model_flops'] / speed['chips']:.3g} a chip"
    )
    compiled = (
        f"  {speed['product_flops_a_chip']:.3g} a chip in the compiled products, "
        "recomputation included, attention kernels not"
    )
    bound = (
        f"  {speed['seconds_at_least']:.3f} s: scheduled cycles; without waiting for "
        "other chips, and without attention kernels"
    )
    last = (
        f"at most {speed['tokens_per_second_at_most']:,.0f} tokens a second, MFU at "
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
        "operations, FLOPs a step",
        needed,
        compiled,
        "",
        f"static lower bound of the step time, from the compiled schedule{unsure}",
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


def advice(results: dict[str, Any]) -> str:
    """What to change, or what else is possible."""
    fitting = [n for n in results["neighbours"] if n["fits"]]
    if not results["fits"]:
        if not fitting:
            return (
                "It does not fit, and neither does any neighbour: take a larger slice "
                "(config.topology), adafactor, or a shorter config.surgery.data.context."
            )
        same = [n for n in fitting if n["chips"] == results["chips"]]
        best = min(same or fitting, key=lambda n: n["chips"])
        return f"It does not fit. What fits with one change: {best['flags']}"
    smaller = [n for n in fitting if n["chips"] < results["chips"]]
    if smaller:
        return f"It fits; it also fits fewer chips: {smaller[0]['flags']}"
    free = 1 - results["needs"] / results["has"]
    return f"It fits, with {free:.0%} of each chip's memory free."


def picture(results: dict[str, Any]) -> bytes:
    """Bars of memory a chip, by part: the step and its neighbours; PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    asked = [results | {"flags": "as asked"}, *results["neighbours"]]
    asked = [entry for entry in asked if entry["needs"] is not None]
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(asked)), layout="constrained")
    axes = figure.add_subplot()
    shown = set()
    for place, entry in enumerate(asked):
        parts, start = entry["memory"] or {"needs": entry["needs"]}, 0.0
        for name in (*PARTS, "needs"):
            if name not in parts:
                continue
            label = "does not fit" if name == "needs" else name
            size = parts[name] / GIB
            axes.barh(
                place,
                size,
                left=start,
                color=COLOURS[name],
                label=None if name in shown else label,
            )
            shown.add(name)
            start += size
        axes.plot([entry["has"] / GIB] * 2, [place - 0.42, place + 0.42], color="black")
        axes.text(
            start + 0.06,
            place,
            f"{entry['needs'] / GIB:.2f}",
            va="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    names = [
        entry["flags"].replace("--config.", "").replace("surgery.", "")
        for entry in asked
    ]
    axes.set_yticks(range(len(asked)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("GiB a chip; the line is what a program may use")
    axes.set_title(
        f"{results['model']} on {results['topology']}, {results['chips']} chips",
        fontsize=10,
    )
    axes.margins(x=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
