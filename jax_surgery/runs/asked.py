# SPDX-License-Identifier: Apache-2.0
"""What a config asks of models: questions, and probes with metrics."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jax_surgery import metrics
from jax_surgery.benchmarks import BENCHMARKS, parse
from jax_surgery.config import names
from jax_surgery.data import prompts
from jax_surgery.data.asked import NAMED
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe
from jax_surgery.data.prompts import AsChat
from jax_surgery.data.questions import Question, read_questions
from jax_surgery.metrics import base, multiple_choice
from jax_surgery.metrics.base import Observe
from jax_surgery.models.model import Model

CONTEXT = 256  # tokens; questions are the same in any
# {group: {metric: {"value", "interval", "n", "reference", and of the metric "protocol",
# "direction", "unit", "counts"}}}
Measured = dict[str, dict[str, dict[str, Any]]]
# Of each group what was read from a model, by the function that reads it.
Observed = dict[str, dict[Observe, Any]]
# Of each thing that is asked {"group", "metric", "id", "about", "value"}.
Lines = list[dict[str, Any]]


def load_questions(source: str) -> tuple[Question, ...]:
    """The questions of `config.data.questions`.

    Args:
      source: a benchmark that has questions, such as "embedded"; a questions JSONL; or
        "" for none.

    Raises:
      FileNotFoundError, ValueError: see `read_questions`, or the benchmark has none.
    """
    if not source:
        return ()
    if source.partition(":")[0] not in BENCHMARKS:
        return read_questions(source)
    probes = parse(source, "config.data.questions").probes(CONTEXT)
    found = tuple(question for probe in probes for question in probe.questions)
    if not found:
        raise ValueError(
            f"config.data.questions={source!r} has no multiple-choice questions; ask "
            f"it with --config.benchmark={source} of configs/evaluate.py."
        )
    return found


def roles_of(
    source: str,
    questions: Iterable[Question],
    groups: Iterable[Group] = (),
    probes: Iterable[Probe] = (),
) -> dict[str, str]:
    """The role of each group that is asked; "" where nothing says it.

    Args:
      source: `config.data.questions`: a benchmark says the roles of its groups, and in a
        file their names do (`data.asked.NAMED`, and "retain").
      questions: of it.
      groups: of a benchmark that is asked too.
      probes: of it, of which some have roles of their own.
    """
    known: dict[str, str] = {**NAMED, "retain": "retain"}
    if source.partition(":")[0] in BENCHMARKS:
        known = {group.name: group.role for group in parse(source).groups()}
    names = dict.fromkeys(question.group for question in questions)
    found = {name: known.get(name, "") for name in names}
    found |= {group.name: group.role for group in groups}
    return found | {probe.group: probe.role for probe in probes if probe.role}


def accuracies(
    model: Model, questions: Sequence[Question], context: int, chat: AsChat
) -> dict[str, Any]:
    """Accuracies by group, see `multiple_choice.summarise`; {} without questions.

    Args:
      chat: whether in the model's chat template.
    """
    return answered(model, questions, context, chat)[0]


def answered(
    model: Model, questions: Sequence[Question], context: int, chat: AsChat
) -> tuple[dict[str, Any], Lines]:
    """`accuracies`, and whether each answer is right."""
    if not questions:
        return {}, []
    probe = Probe("all", context, tuple(questions), chat=chat)
    answers = multiple_choice.answer(model, probe)
    each = multiple_choice.each(answers, probe)
    lines = lines_of(multiple_choice.METRIC.name, each, "")
    for line, question in zip(lines, questions, strict=True):
        line["group"] = question.group
    return multiple_choice.summarise(answers), lines


def with_metrics(probes: Iterable[Probe], given: str, chat: AsChat) -> list[Probe]:
    """Probes of which the named metrics are measured.

    Args:
      given: `config.metrics`, comma-separated; "" leaves each probe its own.
      chat: whether their questions are asked in the model's chat template; "auto" leaves
        it to the probe, whose protocol may forbid it.

    Raises:
      ValueError: there is no such metric.
    """
    named = tuple(names(given))
    found = [
        dataclasses.replace(
            p, metrics=named or p.metrics, chat=p.chat if chat == "auto" else chat
        )
        for p in probes
    ]
    for probe in found:
        metrics_of(probe)  # raises before a model is loaded
    return found


def check_chat(
    tokenizer: Any, chat: AsChat, *asked: Iterable[Question | Probe]
) -> None:
    """Refuses questions in a chat template that the tokenizer does not have, before a
    model is loaded.

    Args:
      chat: whether they are asked in the model's chat template.
      asked: questions and probes; without any question nothing is refused.

    Raises:
      ValueError: see `prompts.asks_as_chat`.
    """
    for one in itertools.chain(*asked):
        if isinstance(one, Question) or one.questions:
            prompts.asks_as_chat(tokenizer, chat)
            return


def metrics_of(probe: Probe) -> list[metrics.Metric]:
    """What is measured of a probe."""
    return [metrics.find(name) for name in probe.metrics]


def comparisons_of(probe: Probe, against: str = "before") -> list[metrics.Comparison]:
    """What is measured of a probe beside a model of a kind (`Comparison.against`)."""
    found = [metrics.COMPARISONS[name] for name in probe.comparisons]
    return [comparison for comparison in found if comparison.against == against]


OF_METRIC = ("protocol", "direction", "unit", "counts")


def observe(
    model: Model,
    probes: Iterable[Probe],
    of: Callable[[Probe], Sequence[metrics.Metric | metrics.Comparison]],
) -> Observed:
    """What is read from a model.

    Args:
      of: what is to be measured of each probe.
    """
    return {probe.group: base.observations(of(probe), model, probe) for probe in probes}


def estimated(
    probes: Iterable[Probe],
    observed: Observed,
    other: Observed | None = None,
    against: Iterable[str] = ("before",),
) -> Measured:
    """The scores that observations give, as results.json holds them.

    Args:
      observed: of the model.
      other: of the one that it is compared with; None: with none.
      against: what the other model is (`Comparison.against`).
    """
    found: Measured = {}
    for probe in probes:
        own = observed[probe.group]
        scores: dict[str, tuple[Any, metrics.Estimate]] = {
            m.name: (m, m.measured(own[m.observe], probe)) for m in metrics_of(probe)
        }
        if other is not None:
            for c in (c for kind in against for c in comparisons_of(probe, kind)):
                beside = other[probe.group][c.observe]
                scores[c.name] = c, c.compare(own[c.observe], beside, probe)
        found[probe.group] = {
            name: dataclasses.asdict(estimate)
            | {key: getattr(of, key) for key in OF_METRIC}
            for name, (of, estimate) in scores.items()
        }
    return found


def measure(model: Model, probes: Iterable[Probe]) -> Measured:
    """What a model scores on probes, as results.json holds it.

    Raises:
      ValueError: a score that cannot be measured (see `Metric.measured`).
    """
    return measured_each(model, probes)[0]


def measured_each(model: Model, probes: Iterable[Probe]) -> tuple[Measured, Lines]:
    """`measure`, and the value of each thing that is asked."""
    probes = list(probes)
    observed = observe(model, probes, metrics_of)
    return estimated(probes, observed), each(probes, observed)


def each(probes: Iterable[Probe], observed: Observed) -> Lines:
    """The value of each thing that probes ask."""
    lines: Lines = []
    for probe in probes:
        for metric in metrics_of(probe):
            if metric.each:
                values = metric.each(observed[probe.group][metric.observe], probe)
                lines += lines_of(metric.name, values, probe.group)
    return lines


def lines_of(metric: str, each: metrics.Each, group: str) -> Lines:
    """A line for each thing that was asked, as `one_by_one` writes them."""
    of = {"group": group, "metric": metric}
    return [
        of | {"id": name, "about": about, "value": value}
        for name, value, about in zip(each.ids, each.values, each.about, strict=True)
    ]
