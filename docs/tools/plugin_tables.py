# SPDX-License-Identifier: Apache-2.0
"""The tables of metrics and of methods, as the code has them."""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Sequence

from configs import surgery
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.methods import METHODS
from jax_surgery.methods.base import (
    HiddenMethod,
    LogitMethod,
    Method,
    PairMethod,
    SequenceMethod,
    TargetMethod,
    TokenMethod,
)
from jax_surgery.methods.loku import LoKU
from jax_surgery.methods.subspace.method import Subspace
from jax_surgery.metrics import COMPARISONS, METRICS
from jax_surgery.models.flops import training_flops
from jax_surgery.models.published import SIZES
from jax_surgery.report import cost
from jax_surgery.runs import settings as run_settings

HIGH = {
    "knows": "the model knows the text",
    "ignorant": "the model does not know the text",
    "neither": "neither",
}
LEVELS = {
    PairMethod: "pairs of an answer and its alternative",
    SequenceMethod: "whole texts",
    HiddenMethod: "hidden states of one layer",
    LogitMethod: "all logits of a token",
    TokenMethod: "tokens",
    Subspace: "subspaces of the weights, no loss",
}
RETAINS = {"none": "nothing", "nll": "cross-entropy", "kl": "KL"}
ARXIV = re.compile(r"(?<=arXiv )\d{4}\.\d{5}")
MANY = 8  # options, of which more are not listed in a cell
MODEL, CONTEXT = "llama3.2_1b", 2048  # of which the cost of a step is counted


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    whole = [[cell.replace("|", "\\|") for cell in cells] for cells in (heads, *rows)]
    whole.insert(1, ["---"] * len(heads))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in whole)


def linked(text: str) -> str:
    """A text whose numbers of arXiv are links."""
    return ARXIV.sub(lambda n: f"[{n[0]}](https://arxiv.org/abs/{n[0]})", text)


def first_line(thing: object) -> str:
    """The first sentence of a docstring."""
    text = inspect.getdoc(thing) or ""
    sentence = " ".join(text.partition("\n\n")[0].split())
    return sentence.removesuffix(".")


def options(member: type) -> str:
    """The options of a plug-in with their defaults; where they are many, their file."""
    if (count := len(dataclasses.fields(member))) > MANY:
        path = f"../{member.__module__.replace('.', '/')}.py"
        return f"[{count} options]({path})"
    found = []
    for field in dataclasses.fields(member):
        value = field.default
        if value is dataclasses.MISSING:
            found.append(f"`{field.name}`")
        else:
            found.append(f"`{field.name}={value}`")
    return ", ".join(found)


def metrics() -> str:
    """Of each metric its definition, direction, unit, reference, protocol and source; those that
    compare with another model come last."""
    every = [(name, metric, metric.estimate) for name, metric in METRICS.items()]
    every += [(name, one, one.compare) for name, one in COMPARISONS.items()]
    rows = [
        (
            f"`{name}`",
            first_line(inspect.getmodule(made_by)),
            HIGH[metric.direction],
            metric.unit,
            metric.counts,
            getattr(metric, "reference", "") or "none",
            metric.protocol,
            linked(metric.source),
        )
        for name, metric, made_by in every
    ]
    heads = (
        *("metric", "definition", "a high value says", "unit", "n counts"),
        *("reference", "protocol", "source"),
    )
    return table(heads, rows)


def step_cost(name: str, member: type) -> str:
    """FLOPs of a step of a method that descends on every parameter, relative to a
    forward and a backward pass over the same rows."""
    if issubclass(member, Subspace):
        return "rounds, which are not counted"
    if issubclass(member, TargetMethod):
        return "chosen by the run"
    config = surgery.get_config()
    config.method = name
    config.steps = 1
    config.data.context = CONTEXT
    config.optimizer.update(name="adamw", matrices="", first_layer=0)
    if issubclass(member, HiddenMethod):
        config.objective.retain = "nll"  # not read: it has a retain term of its own
    if issubclass(member, LoKU):
        config.lora.rank = 8
    for role in ("unlearn", "update", "retain"):
        # What is learned in the steps of a method that subtracts is no update.
        subtracts = role == "update" and member().applied < 0
        config.data[f"rows_{role}"] = 0 if subtracts else 1
    settings, model = run_settings.from_config(config), SIZES[MODEL]
    stage = settings.of_descent(settings.stages[0])
    _, items = cost.of_stage(stage, RoleTexts({}, None), model)
    rows = sum(stage.data.rows.values())
    return f"{sum(items.values()) / training_flops(model, rows * CONTEXT, CONTEXT):.2f}"


def retained(member: type[Method]) -> str:
    """What a method retains text by."""
    if issubclass(member, Subspace):
        return "subspaces"
    if issubclass(member, HiddenMethod):
        return "its hidden states"
    if member.retains:
        return RETAINS[member.retains]
    alone = member.published.get("gamma") == 0
    return "`objective.retain`" + (" (published: nothing)" if alone else "")


def methods() -> str:
    """Of each method its level, options, reference, cost and source."""
    rows = []
    for name, member in METHODS.items():
        level = next(said for kind, said in LEVELS.items() if issubclass(member, kind))
        doc = " ".join((inspect.getmodule(member).__doc__ or "").split())
        sources = dict.fromkeys(ARXIV.findall(doc))
        source = ", ".join(linked(f"arXiv {number}") for number in sources)
        inherited = (
            issubclass(member, Subspace) and member.__mro__[1] in METHODS.values()
        )
        given = (
            f"those of `{_name(member.__mro__[1])}`, set as in the paper"
            if inherited
            else options(member)
        )
        reads = " and ".join(member.reference)
        rows.append(
            (
                f"`{name}`",
                first_line(member),
                level,
                given,
                retained(member),
                reads,
                step_cost(name, member),
                source or "this package",
            )
        )
    heads = (
        "method",
        "what it does",
        "unlearn term is of",
        "options and defaults",
        "text is retained by",
        "also reads the frozen model on",
        "FLOPs of a step",
        "source",
    )
    return table(heads, rows)


def _name(member: type) -> str:
    return next(name for name, known in METHODS.items() if known is member)
