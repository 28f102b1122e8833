# SPDX-License-Identifier: Apache-2.0
"""Writes what traces of unlearned text a model has: results.json, the report page, the
printed table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_surgery.metrics import separation
from jax_surgery.report import page, pictures, table, writer

Results = Mapping[str, Any]
NAMES = {
    "model": "the model",
    "reference_model": "a model that never knew",
    "original_model": "the model before",
}
COLOURS = {
    "model": pictures.COLOURS["obsolete"],
    "reference_model": pictures.COLOURS["update"],
    "original_model": pictures.COLOURS["retain"],
}
# Of scores, a colour each.
PALETTE = ("#c44e52", "#4c72b0", "#55a868", "#dd8452", "#8172b3", "#937860")
MARKS = {"model": "o", "reference_model": "x"}
INTERVALS = "AUC: Newcombe; TPR: at a threshold that is estimated; layers, depth: bootstrap; over texts"
HOW = {
    "auc": "An AUC of 0.5 tells nothing, 1 tells all unlearned texts from unseen ones, and 0 "
    "tells them too, the other way round. Where a model that never knew is not at 0.5 the two "
    "sets of text differ by themselves: what the model shows is how far it lies from that "
    "one.",
    "roc": "How many unlearned texts somebody finds who accuses so many unseen ones. On the "
    "dotted line nothing is told. What counts is the left side: whoever is right about few "
    "texts knows something of these.",
    "depth": "How far log p of the answer falls in the model before, where the states after "
    "one layer are those of another model. As low as with a model that never knew: the layer "
    "holds nothing any more. Near 0: the layer still holds what the answers hide. Bands are "
    "95 % intervals.",
    "lens": "Mean log p of the answer's tokens, read from the states after each layer. Where "
    "the model lies above one that never knew, that layer still says what was unlearned. "
    "Bands are 95 % intervals.",
}


def auc_picture(found: Results) -> str:
    """The AUC of each score with its interval, of both models, as SVG."""
    figure, axes = pictures.panel(pictures.WIDTH, 0.9 + 0.34 * len(found))
    axes.axvline(0.5, color=pictures.GREY, linestyle=":", label="nothing is told")
    for of, mark in MARKS.items():
        there = [(i, e[of]["auc"]) for i, e in enumerate(found.values()) if of in e]
        if not there:
            continue
        shift = 0.12 if of == "model" else -0.12
        places = [place - shift for place, _ in there]
        values = np.array([one["value"] for _, one in there])
        ends = np.array([one["interval"] for _, one in there]).T
        axes.errorbar(
            values, places, xerr=np.abs(ends - values), fmt=mark, color=COLOURS[of],
            markersize=6, elinewidth=1.2, capsize=3, label=NAMES[of],
        )  # fmt: skip
    axes.set_yticks(range(len(found)), [name.replace("_", " ") for name in found])
    axes.invert_yaxis()
    axes.set_xlim(-0.03, 1.03)
    axes.grid(axis="x", color=pictures.GREY, alpha=0.25, linewidth=0.6)
    axes.set_xlabel("AUC", color=pictures.GREY)
    pictures.legend(axes)
    return pictures.as_svg(figure, "AUC of membership inference, of each score")


def roc_picture(scores: Results) -> str:
    """The ROC curve of each score of the model, on logarithmic axes, as SVG.

    Args:
      scores: of the model, {score: {"unlearn", "holdout"}}: values of each text.
    """
    figure, axes = pictures.panel(pictures.WIDTH, 3.8)
    sizes = [len(s) for own in scores.values() for s in own.values()]
    least = 0.5 / max(sizes)
    for (name, own), colour in zip(scores.items(), PALETTE, strict=False):
        sides = (np.array(own[side]) for side in ("unlearn", "holdout"))
        false, true = separation.curve(*sides)
        axes.step(
            np.maximum(false, least), np.maximum(true, least), where="post",
            color=colour, linewidth=1.6, label=name.replace("_", " "),
        )  # fmt: skip
    axes.plot([least, 1], [least, 1], ":", color=pictures.GREY)
    for scale in (axes.set_xscale, axes.set_yscale):
        scale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(least, 1.05)
    axes.set_xlabel("false positive rate", color=pictures.GREY)
    axes.set_ylabel("true positive rate", color=pictures.GREY)
    pictures.legend(axes)
    return pictures.as_svg(figure, "ROC curves of membership inference")


def layers_picture(found: Results, what: str, title: str) -> str:
    """A value after each layer with its interval, of several models, as SVG.

    Args:
      found: by model its layers, each {"layer", "value", "interval"}.
      what: the value is.
      title: of the picture.
    """
    figure, axes = pictures.panel(pictures.WIDTH, 3.2)
    for of, name in NAMES.items():
        if of not in found:
            continue
        numbers = [one["layer"] for one in found[of]]
        low, high = np.array([one["interval"] for one in found[of]]).T
        axes.fill_between(numbers, low, high, color=COLOURS[of], alpha=0.2, linewidth=0)
        axes.plot(
            numbers, [one["value"] for one in found[of]], "o-", color=COLOURS[of],
            markersize=3.5, linewidth=1.6, label=name,
        )  # fmt: skip
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("layer", color=pictures.GREY)
    axes.set_ylabel(what, color=pictures.GREY)
    pictures.legend(axes)
    return pictures.as_svg(figure, title)


def _figures(results: Results) -> list[page.Figure]:
    found = []
    if "membership" in results:
        titles = (
            "Which texts was it trained on?",
            "The same, at few false accusations",
        )
        drawn = (
            auc_picture(results["membership"]),
            roc_picture(results["scores"]["model"]),
        )
        for title, svg, how in zip(titles, drawn, ("auc", "roc"), strict=True):
            found.append(page.Figure(title=title, svg=svg, caption=HOW[how]))
    if "depth" in results:
        svg = layers_picture(
            results["depth"]["layers"],
            "fall of log p, nats per token",
            "unlearning depth",
        )
        title = "How deep the unlearning goes: layers that are patched"
        found.append(page.Figure(title=title, svg=svg, caption=HOW["depth"]))
    svg = layers_picture(results["lens"], "log p, nats per token", "the logit lens")
    title = "What each layer says: the logit lens"
    reader = (
        " All states are read with the norm and the output head of the model before."
        if "original_model" in results["lens"]
        else " Each model's states are read with its own norm and output head."
    )
    found.append(page.Figure(title=title, svg=svg, caption=HOW["lens"] + reader))
    return found


def _row(name: str, entry: Results, main: bool = True) -> table.Row:
    low, high = entry["interval"]
    ends = f"{low:.3f} to {high:.3f}"
    value = f"{entry['value']:.3f}"
    return table.Row(name, "", "", "", value, ends, entry["n"], main)


def _rows(results: Results) -> list[table.Row]:
    rows = []
    for name, entry in results.get("membership", {}).items():
        own, other = entry["model"], entry.get("reference_model")
        rows.append(_row(f"{name}, AUC", own["auc"]))
        if other:
            rows.append(
                _row(f"{name}, AUC of a model that never knew", other["auc"], False)
            )
        rows += [
            _row(f"{name}, TPR at {100 * float(rate):g} % FPR", one, False)
            for rate, one in own["tpr"].items()
        ]
    for key, name in (
        ("depth", "unlearning depth"),
        ("lens_depth", "depth by the lens"),
    ):
        if key in results:
            rows.append(_row(name, results[key]))
    return rows


def membership_headline(found: Results) -> str:
    """What membership inference says, in a sentence: of the score that lies furthest from
    what tells nothing."""

    def base(name: str) -> float:
        other = found[name].get("reference_model")
        return other["auc"]["value"] if other else 0.5

    auc = lambda name: found[name]["model"]["auc"]
    name = max(found, key=lambda name: abs(auc(name)["value"] - base(name)))
    own, excess = auc(name), found[name].get("excess")
    low, high = own["interval"]
    told = excess["p_holm"] < 0.05 if excess else not low <= 0.5 <= high
    than = (
        f"{base(name):.2f} of a model that never knew"
        if excess
        else "0.5 tells nothing"
    )
    where = (
        f"AUC {own['value']:.2f} [{low:.2f}, {high:.2f}] by {name.replace('_', ' ')}, the "
        f"furthest of {len(found)} scores; {than}"
    )
    if not told:
        said = "Membership inference does not tell unlearned texts from unseen ones"
    elif own["value"] > base(name):
        said = (
            "Membership inference tells that the model was trained on unlearned texts"
        )
    else:
        said = (
            "Membership inference tells which texts were unlearned: the model finds them "
            "less likely than texts that it has never seen"
        )
    return f"{said} ({where})."


def depth_headline(found: Results) -> str:
    """What the depth says, in a sentence."""
    low, high = found["interval"]
    return (
        f"Unlearning depth {found['value']:.2f} [{low:.2f}, {high:.2f}] over {found['n']} "
        f"of {found['asked']} texts: 0 is that the layers hold all of it, 1 that they hold as "
        "little as a model that never knew."
    )


def _warnings(results: Results) -> list[str]:
    found, others = list(results.get("warnings", [])), results["texts"]["holdout"]
    rates = [r for r in separation.FALSE_POSITIVE_RATES if 0 < others < 1 / r]
    if rates:
        each = " and ".join(f"{100 * rate:g} %" for rate in rates)
        found.append(
            f"{others} unseen texts cannot show a false positive rate of {each}: what "
            f"stands there is at no false positive, that is at less than {100 / others:.2g} "
            "%. Give more texts as config.data.holdout."
        )
    return found


def _headlines(results: Results) -> list[str]:
    found = []
    if "membership" in results:
        found.append(membership_headline(results["membership"]))
    if "leakage" in results:
        found.append(
            f"Privacy leakage {results['leakage']['value']:.1f} %: 0 is a model that never "
            "knew, below 0 too little is unlearned, above 0 too much."
        )
    if "depth" in results:
        found.append(depth_headline(results["depth"]))
    return found


def write(directory: str, results: Results, settings: Results) -> None:
    """Writes results.json and report/index.html, and prints the table, on the lead process.

    Args:
      results: see `runs.privacy.run`.
      settings: the exact config.
    """
    texts = results["texts"]
    others: Sequence[str] = [
        f"{NAMES[of]}: {results[of]}" for of in list(NAMES)[1:] if results[of]
    ]
    subtitle = f"of {texts['unlearn']} unlearned texts in {results['model']}"
    if texts["holdout"]:
        subtitle += f", beside {texts['holdout']} unseen ones"
    shown = page.Page(
        title="Traces of unlearned text",
        subtitle="; ".join([subtitle, *others]),
        headlines=_headlines(results),
        warnings=_warnings(results),
        rows=_rows(results),
        single=True,
        intervals=INTERVALS,
        figures=_figures(results),
        settings=dict(settings),
    )
    writer.write(directory, dict(results), shown)
