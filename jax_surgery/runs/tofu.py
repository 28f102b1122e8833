# SPDX-License-Identifier: Apache-2.0
"""TOFU as a case of `runs.surgery`: a small Llama is fitted to it, and a split unlearned.

Files -> a model fitted to `full` -> the forget split is unlearned, refusals or the
user's answers are learned, the retain split is retained -> answer probability and
ROUGE-L on forget, retain and held-out questions, before and after.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from jax_surgery import metrics
from jax_surgery.benchmarks import tofu
from jax_surgery.data.probes import Probe
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.metrics import rouge_l
from jax_surgery.metrics.base import estimates, observations
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed
from jax_surgery.report import page, table
from jax_surgery.runs import pretrain
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.runs.pretrain import PretrainSettings

EXAMPLES_A_GROUP = 4
# Names in results.json of the benchmark's metrics.
KEYS = {"answer_probability": "probability", "rouge_l": "rouge_l"}


@dataclasses.dataclass(frozen=True)
class TofuData:
    """TOFU's files and what is asked of them."""

    dir: str  # directory of TOFU's JSONL files
    forget: str  # "forget01", "forget05" or "forget10"
    update: str  # sources of the update set; "" takes refusals from idk.txt
    refusals: int  # refusals a question, where they make the update set
    retain_questions: int  # retain questions asked (forget: all)


@dataclasses.dataclass(frozen=True)
class TofuSettings:
    """Fit to TOFU, unlearn a split, report (`run = "tofu"`)."""

    run: str
    data: TofuData
    fit: PretrainSettings
    surgery: SurgerySettings


def fit(settings: TofuSettings, files: tofu.TofuFiles, directory: str) -> str:
    """Fits a model to all of TOFU, or takes the one fitted before; its directory."""
    folder = epath.Path(directory) / "fit"
    if (folder / "results.json").exists():
        return str(folder / "model")
    texts = ",".join([files.full, settings.data.update or _refusals(directory)])
    wanted = dataclasses.replace(
        settings.fit,
        data=dataclasses.replace(settings.fit.data, train=files.full),
        new_model=dataclasses.replace(settings.fit.new_model, tokenizer_texts=texts),
    )
    folder.mkdir(parents=True, exist_ok=True)
    return pretrain.run(wanted, str(folder)).directory


def _refusals(directory: str) -> str:
    return str(epath.Path(directory) / "refusals.jsonl")


def surgery_settings(
    settings: TofuSettings, files: tofu.TofuFiles, directory: str, model: str
) -> SurgerySettings:
    """The surgery's settings with TOFU's files as its roles."""
    data = dataclasses.replace(
        settings.surgery.data,
        unlearn=files.forget,
        update=settings.data.update or _refusals(directory),
        retain=files.retain,
        questions="",
    )
    return dataclasses.replace(settings.surgery, model=model, data=data)


def benchmark_of(settings: TofuSettings) -> tofu.Tofu:
    """The benchmark, as the settings describe it."""
    data = settings.data
    return tofu.Tofu(
        data.dir,
        data.forget,
        data.refusals,
        data.retain_questions,
        settings.surgery.seed,
    )


def ask(model: Model, probes: Sequence[Probe]) -> tuple[dict, dict]:
    """How well a model knows each group's answers.

    Returns:
      (by group {"n", "probability", "rouge_l" and their intervals}, by group what the
      model says to each question).
    """
    found, said = {}, {}
    for probe in probes:
        chosen = [metrics.find(name) for name in probe.metrics]
        seen = observations(chosen, model, probe)
        said[probe.group] = seen[rouge_l.greedy_answers]
        found[probe.group] = {"n": len(probe.records)}
        for name, estimate in estimates(chosen, seen, probe).items():
            found[probe.group][KEYS[name]] = estimate.value
            found[probe.group][f"{KEYS[name]}_interval"] = list(estimate.interval)
    return found, said


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Answers to some questions of each group, before a run and after it."""

    probes: Sequence[Probe]
    before: dict[str, list[str]]
    said: dict[str, Any]

    def after(self, model: Model) -> list[page.Example]:
        """The answers before the run, beside those of the last probe."""
        del model  # it was asked by the probe already
        return [
            page.Example(
                about=probe.group,
                prompt=probe.records[i].question,
                reference=probe.records[i].answer.strip(),
                before=self.before[probe.group][i],
                after=self.said[probe.group][i],
            )
            for probe in self.probes
            for i in _spread(len(probe.records))
        ]


def _spread(count: int) -> range:
    """Places of a group's examples."""
    return range(0, count, max(1, count // EXAMPLES_A_GROUP))


class OnTofu(ByRoles):
    """Texts by role, asked TOFU's questions; see `runs.surgery`."""

    intervals = "bootstrap"

    def __init__(self, settings: SurgerySettings, probes: Sequence[Probe], forget: str):
        """Takes the benchmark's probes, and the name of the forget split."""
        super().__init__(settings)
        self._probes, self._said = probes, {}
        self.title = f"LLM Surgery on TOFU, {forget}"

    def probe(self, model: Model) -> dict[str, Any]:
        """{"groups": how well each group's answers are known, "roles": see `ByRoles`}."""
        roles = super().probe(model)["roles"]
        found, said = ask(model, self._probes)
        self._said.update(said)
        return {"groups": found, "roles": roles}

    def examples(self, model: Model) -> Answers:
        """The answers of the last probe, to be shown beside those of the next."""
        del model
        return Answers(self._probes, dict(self._said), self._said)

    def rows(self, results: dict[str, Any]) -> list[table.Row]:
        """Rows of the before/after table."""
        return table.recall_rows(results["before"], results["after"])


def prepare(settings: TofuSettings, directory: str) -> OnTofu:
    """The case, with a model fitted to all of TOFU.

    Raises:
      FileNotFoundError, ValueError: TOFU's files are absent or malformed.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    benchmark = benchmark_of(settings)
    files = benchmark.files
    probes = benchmark.probes(settings.surgery.data.context)
    epath.Path(directory).mkdir(parents=True, exist_ok=True)
    if not settings.data.update and distributed.is_lead():
        tofu.write_refusals(
            files, _refusals(directory), settings.surgery.seed, settings.data.refusals
        )
    distributed.wait("refusals")
    model = fit(settings, files, directory)
    chosen = surgery_settings(settings, files, directory, model)
    return OnTofu(chosen, probes, settings.data.forget)
