# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model: answers to questions, and the likelihood of texts.

The run: check the questions and texts -> load the model -> score it -> results.json,
report.
"""

import dataclasses
import json
from typing import Any, ClassVar

from etils import epath

from jax_surgery import benchmarks
from jax_surgery.benchmarks import model_source
from jax_surgery.checkpoints import hf_weights
from jax_surgery.command_line import wrapped
from jax_surgery.config import at_least, names
from jax_surgery.data import records
from jax_surgery.data.probes import Probe
from jax_surgery.data.prompts import AsChat
from jax_surgery.metrics import text
from jax_surgery.models.compute import Compute
from jax_surgery.parallel import distributed, progress
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.report import evaluation as evaluation_report
from jax_surgery.report import summary
from jax_surgery.runs import asked
from jax_surgery.storage import files
from jax_surgery.train import devices


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
      benchmark: its name in `benchmarks.BENCHMARKS`, with options; "" asks none.
      metrics: names in `metrics.METRICS`, comma-separated, of the texts and the
        benchmark; "" measures nats per token of texts, and what the benchmark names.
    """

    run: str
    model: str
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
    if settings.benchmark:
        probes = benchmarks.parse(settings.benchmark).probes(context)
    texts = [
        Probe(name, context, records=tuple(records.read_source(name)))
        for name in (files if settings.metrics else ())
    ]
    return asked.with_metrics([*probes, *texts], settings.metrics, settings.data.chat)


def run(settings: EvaluateSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Returns:
      {"model", "evaluation": accuracies by group (see `multiple_choice.summarise`),
      "text": {file: see `text.file_nll`}, "metrics": {group of the benchmark, or file:
      {metric: {"value", "interval", "n", "reference"}}} where any are asked for,
      "group_roles": of groups whose role is known, "settings"}.

    Raises:
      FileNotFoundError, ValueError: nothing asked, bad data, or no such model.
    """
    data = settings.data
    questions = asked.load_questions(data.questions)
    sources = names(data.text)
    for name in sources:
        records.read_source(name)  # raises before a model is loaded
    probes = probes_of(settings, sources)
    groups = benchmarks.parse(settings.benchmark).groups() if settings.benchmark else ()
    if not questions and not sources and not probes:
        raise ValueError(
            "config.data.questions, config.data.text and config.benchmark are all "
            "empty: nothing is asked. Set questions='embedded', a questions JSONL, "
            "text=a.jsonl, or a benchmark."
        )
    with devices.on_mesh(settings.mesh):
        source = model_source(settings.model)
        tokenizer = hf_weights.load_tokenizer(source)
        asked.check_chat(tokenizer, data.chat, questions, probes)
        with progress.phase("loading the model"):
            model = devices.load(source, settings.compute, tokenizer, data.context)
        with progress.phase("asking the model"):
            evaluation = asked.accuracies(model, questions, data.context, data.chat)
            texts = {name: text.file_nll(model, name, data.context) for name in sources}
            measured = asked.measure(model, probes)
    results = {
        "model": settings.model,
        "evaluation": evaluation,
        "text": texts,
        "group_roles": asked.roles_of(data.questions, questions, groups),
        "settings": dataclasses.asdict(settings),
    }
    if measured:
        results["metrics"] = measured
    if distributed.is_lead():
        file = epath.Path(directory) / "results.json"
        files.write_text(file, json.dumps(results, indent=2) + "\n")
        _show(evaluation, texts)
        _show_metrics(probes, measured)
        for answer in summary.of(results):
            print(wrapped(str(answer)))
        evaluation_report.write(directory, results)
    return results


def _show_metrics(probes: list[Probe], measured: asked.Measured) -> None:
    for probe in probes:
        for metric in asked.metrics_of(probe):
            found = measured[probe.group][metric.name]
            low, high = found["interval"]
            print(
                f"{probe.group}: {metric.name} {found['value']:.4f} [{low:.4f}, "
                f"{high:.4f}] ({metric.unit}, of {found['n']} {metric.counts})"
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
