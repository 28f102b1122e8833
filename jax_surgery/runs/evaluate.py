# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model: answers to questions, and the likelihood of texts.

The run: check the questions and texts -> load the model -> score it -> results.json,
report.
"""

import dataclasses
import json
from typing import Any, ClassVar

from etils import epath

from jax_surgery import benchmarks, metrics
from jax_surgery.benchmarks import model_source
from jax_surgery.benchmarks.tofu import Tofu
from jax_surgery.checkpoints import hf_weights
from jax_surgery.command_line import wrapped
from jax_surgery.config import at_least, names
from jax_surgery.data import records
from jax_surgery.data.probes import Probe
from jax_surgery.data.prompts import AsChat
from jax_surgery.metrics import text
from jax_surgery.models.compute import Compute
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed, progress
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.report import evaluation as evaluation_report
from jax_surgery.report import summary
from jax_surgery.runs import asked, tofu_scores
from jax_surgery.storage import files
from jax_surgery.train import devices

AGAINST = ("before", "never knew")  # what the reference model may be


@dataclasses.dataclass(frozen=True)
class EvaluateData:
    """What a model is asked."""

    questions: str  # as RoleData.questions
    text: str  # JSONL files, comma-separated: nll of each
    chat: AsChat  # questions in the model's chat template
    context: int  # tokens a row

    def __post_init__(self):
        at_least(2, self, "config.data", "context")


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Evaluating a model directory (`run = "evaluate"`).

    Attributes:
      model: a directory or hub name, or a benchmark's name.
      reference_model: the same, of a model that this one is compared with: the one before
        the change, or one that never knew (see `metrics.COMPARISONS`); "" leaves it out.
      benchmark: its name in `benchmarks.BENCHMARKS`, with options; "" asks none.
      metrics: names in `metrics.METRICS`, comma-separated, of the texts and the
        benchmark; "" measures nats per token of texts, and what the benchmark names, of
        TOFU its own scores.
    """

    run: str
    model: str
    reference_model: str
    benchmark: str
    metrics: str
    data: EvaluateData
    mesh: MeshShape
    compute: Compute

    # There is no backward pass.
    FIXED: ClassVar = {"compute": {"remat": "none", "unroll": 0}}


def probes_of(settings: EvaluateSettings, files: list[str]) -> list[Probe]:
    """What the named metrics are measured on.

    Raises:
      FileNotFoundError, ValueError: an unknown metric or benchmark, or bad data.
    """
    context, probes = settings.data.context, ()
    if settings.benchmark and not tofu_of(settings):
        probes = benchmarks.parse(settings.benchmark).probes(context)
    texts = [
        Probe(name, context, records=tuple(records.read_source(name)))
        for name in (files if settings.metrics else ())
    ]
    return asked.with_metrics([*probes, *texts], settings.metrics, settings.data.chat)


def tofu_of(settings: EvaluateSettings) -> Tofu | None:
    """The benchmark TOFU, where its own scores are asked for.

    Raises:
      ValueError: see `benchmarks.parse`.
    """
    if not settings.benchmark or settings.metrics:
        return None
    benchmark = benchmarks.parse(settings.benchmark)
    return benchmark if isinstance(benchmark, Tofu) else None


def run(settings: EvaluateSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Returns:
      {"model", "evaluation": accuracies by group (see `multiple_choice.summarise`),
      "text": {file: see `text.file_nll`}, "metrics": {group of the benchmark, or file:
      {metric: {"value", "interval", "n", "reference", "protocol"}}} where any are asked
      for, "tofu": TOFU's own scores (see `metrics.tofu.scores`),
      "group_roles": of groups whose role is known, "settings"}.

    Raises:
      FileNotFoundError, ValueError: nothing asked, bad data, or no such model.
    """
    data = settings.data
    questions = asked.load_questions(data.questions)
    sources = names(data.text)
    for name in sources:
        records.read_source(name)  # raises before a model is loaded
    probes, own = probes_of(settings, sources), tofu_of(settings)
    if own:
        tofu_scores.check(own)
    groups = benchmarks.parse(settings.benchmark).groups() if settings.benchmark else ()
    if not questions and not sources and not probes and not own:
        raise ValueError(
            "config.data.questions, config.data.text and config.benchmark are all "
            "empty: nothing is asked. Set questions='embedded', a questions JSONL, "
            "text=a.jsonl, or a benchmark."
        )
    with devices.on_mesh(settings.mesh):
        source = model_source(settings.model)
        tokenizer = hf_weights.load_tokenizer(source)
        asked.check_chat(tokenizer, data.chat, questions, probes)
        beside = _beside(probes, settings)
        with progress.phase("loading the model"):
            model = devices.load(source, settings.compute, tokenizer, data.context)
        with progress.phase("asking the model"):
            evaluation = asked.accuracies(model, questions, data.context, data.chat)
            texts = {name: text.file_nll(model, name, data.context) for name in sources}
            measured = _measured(model, probes, beside)
            scored = tofu_scores.measure(model, own, directory) if own else None
    results = {
        "model": settings.model,
        "evaluation": evaluation,
        "text": texts,
        "group_roles": asked.roles_of(data.questions, questions, groups, probes),
        "settings": dataclasses.asdict(settings),
    }
    if measured:
        results["metrics"] = measured
    if scored:
        results["tofu"] = scored
    if distributed.is_lead():
        file = epath.Path(directory) / "results.json"
        files.write_text(file, json.dumps(results, indent=2) + "\n")
        _show(evaluation, texts)
        _show_metrics(probes, measured)
        for answer in summary.of(results):
            print(wrapped(str(answer)))
        evaluation_report.write(directory, results)
    return results


def _reads(probe: Probe) -> list[metrics.Metric | metrics.Comparison]:
    """All that is measured of a probe."""
    return [*asked.metrics_of(probe), *_compares(probe)]


def _compares(probe: Probe) -> list[metrics.Comparison]:
    return [c for kind in AGAINST for c in asked.comparisons_of(probe, kind)]


def _beside(probes: list[Probe], settings: EvaluateSettings) -> asked.Observed | None:
    """What is read from the reference model, which is gone before the other is loaded;
    None without one.

    Raises:
      ValueError: nothing that is asked compares with another model.
    """
    names = dict.fromkeys(c.name for probe in probes for c in _compares(probe))
    if not settings.reference_model:
        if names and distributed.is_lead():
            print(
                f"{', '.join(names)}: not measured, since they compare with another "
                "model, which config.reference_model names."
            )
        return None
    if not names:
        raise ValueError(
            f"config.reference_model={settings.reference_model!r}, and nothing that is "
            "asked compares with another model; leave it empty."
        )
    source = model_source(settings.reference_model)
    with progress.phase("asking the reference model"):
        model = devices.load(source, settings.compute, None, settings.data.context)
        return asked.observe(model, probes, _compares)


def _measured(
    model: Model, probes: list[Probe], beside: asked.Observed | None
) -> asked.Measured:
    """The scores of a model, those beside the reference model among them."""
    if beside is None:
        return asked.measure(model, probes)
    return asked.estimated(
        probes, asked.observe(model, probes, _reads), beside, AGAINST
    )


def _show_metrics(probes: list[Probe], measured: asked.Measured) -> None:
    for probe in probes:
        for metric in _reads(probe):
            if found := measured[probe.group].get(metric.name):
                low, high = found["interval"]
                how = f", {metric.protocol}" if metric.protocol else ""
                print(
                    f"{probe.group}: {metric.name} {found['value']:.4f} [{low:.4f}, "
                    f"{high:.4f}] ({metric.unit}, of {found['n']} {metric.counts}{how})"
                )


def _show(evaluation: dict[str, Any], texts: dict[str, Any]) -> None:
    for group, entry in evaluation.items():
        low, high = (100 * bound for bound in entry["interval"])
        by_wording = ", ".join(
            f"{100 * entry[wording]['accuracy']:.1f} {wording}"
            for wording in ("trained", "unseen")
            if wording in entry
        )
        print(
            f"{group:>12}  {100 * entry['accuracy']:5.1f} % [{low:.1f}, {high:.1f}] "
            f"of {entry['n']} questions ({by_wording} wordings)"
        )
    for name, entry in texts.items():
        low, high = entry["interval"]
        print(
            f"{name}: {entry['nll_per_token']:.4f} nats per token [{low:.4f}, {high:.4f}] "
            f"of {entry['n']} texts, {entry['tokens']} tokens"
        )
