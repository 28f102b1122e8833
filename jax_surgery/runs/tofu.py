# SPDX-License-Identifier: Apache-2.0
"""TOFU: a small Llama is fitted to it, and then a split is unlearned.

Files -> a model fitted to `full` -> `runs.surgery` on the benchmark `tofu`: the forget
split is unlearned, refusals or the user's answers are learned, the retain split is
retained -> answer probability and ROUGE-L on forget, retain and held-out questions, and
TOFU's own scores of both models (`metrics.tofu`).
"""

import dataclasses
import json
from typing import Any

from etils import epath

from jax_surgery.benchmarks import tofu
from jax_surgery.checkpoints import hf_index, hf_weights
from jax_surgery.config import at_least, section
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.parallel import distributed, progress
from jax_surgery.runs import pretrain, surgery, tofu_scores
from jax_surgery.runs.pretrain import PretrainSettings
from jax_surgery.storage import files
from jax_surgery.train import devices


@dataclasses.dataclass(frozen=True)
class TofuData:
    """TOFU's files and what is asked of them."""

    dir: str  # directory of TOFU's JSONL files
    forget: str  # "forget01", "forget05" or "forget10"
    update: str  # sources of the update set; "" takes refusals from idk.txt
    refusals: int  # refusals a question, where they make the update set
    retain_questions: int  # retain questions asked (forget: all)
    scores: bool  # whether TOFU's own scores are measured, before and after
    first: int  # questions of each split that they ask, the first; 0 asks all
    retain_log: str  # tofu_log.json of a model without the forget split; "" for none

    def __post_init__(self):
        at_least(0, self, "config.data", "first")


@dataclasses.dataclass(frozen=True)
class TofuSettings:
    """Fit to TOFU, unlearn a split, report (`run = "tofu"`)."""

    run: str
    data: TofuData
    fit: PretrainSettings
    surgery: SurgerySettings

    @property
    def benchmark(self) -> tofu.Tofu:
        """The benchmark that it describes."""
        data = self.data
        return tofu.Tofu(
            data.dir,
            data.forget,
            data.refusals,
            data.retain_questions,
            self.surgery.seed,
            data.first,
            data.retain_log,
        )


def fit(settings: TofuSettings, directory: str) -> str:
    """Fits a model to all of TOFU, or takes the one fitted before; its directory.

    Raises:
      FileNotFoundError, ValueError: TOFU's files are absent or malformed.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    full = settings.benchmark.files["full"]
    folder = epath.Path(directory) / "fit"
    update = settings.data.update or settings.benchmark.refusals_source
    wanted = dataclasses.replace(
        settings.fit,
        data=dataclasses.replace(settings.fit.data, train=full),
        new_model=dataclasses.replace(
            settings.fit.new_model, tokenizer_texts=f"{full},{update}"
        ),
    )
    with section("fit", PretrainSettings):
        if (folder / "results.json").exists():
            pretrain.read(wanted, str(folder))  # raises where it has changed since
            if _is_whole(folder / "model"):
                return str(folder / "model")
        return pretrain.run(wanted, str(folder))["directory"]


def _is_whole(model: epath.Path) -> bool:
    """Whether the files of a fitted model have what they say; says where they have not."""
    try:
        hf_index.entries_of(model)
        hf_weights.load_config(str(model))
        return True
    except (ValueError, FileNotFoundError) as error:
        if distributed.is_lead():
            print(f"the fitted model is exported again: {error}")
        return False


def surgery_settings(settings: TofuSettings, model: str) -> SurgerySettings:
    """The surgery's settings, of a fitted model and TOFU's splits."""
    data = dataclasses.replace(
        settings.surgery.data,
        unlearn="",
        update=settings.data.update,
        retain="",
        questions="",
    )
    return dataclasses.replace(
        settings.surgery,
        model=model,
        benchmark=settings.benchmark.spec,
        data=data,
    )


def run(settings: TofuSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Returns:
      see `surgery.run`; and "tofu": TOFU's own scores "before" and "after" (see
      `metrics.tofu.scores`), where they are asked for.

    Raises:
      FileNotFoundError, ValueError: TOFU's files are absent or malformed.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    if settings.data.scores:
        _check(settings.benchmark)
    model = fit(settings, directory)
    with section("surgery", SurgerySettings):
        results = surgery.run(surgery_settings(settings, model), directory)
    if settings.data.scores:
        results["tofu"] = _scores(settings, model, directory)
        if distributed.is_lead():
            file = epath.Path(directory) / "results.json"
            written = json.loads(file.read_text()) | {"tofu": results["tofu"]}
            files.write_text(file, json.dumps(written, indent=2) + "\n")
    return results


def _check(benchmark: tofu.Tofu) -> None:
    """Reads what TOFU's own scores need, before anything is fitted."""
    try:
        tofu_scores.check(benchmark)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} To do without TOFU's own scores set config.data.scores=False."
        ) from None


def _scores(settings: TofuSettings, fitted: str, directory: str) -> dict[str, Any]:
    """TOFU's own scores of the fitted model and of the one that the run wrote."""
    given, found = settings.surgery, {}
    models = {"before": fitted, "after": str(epath.Path(directory) / "model")}
    with devices.on_mesh(given.mesh):
        for when, source in models.items():
            with progress.phase(f"asking TOFU {when} the surgery"):
                model = devices.load(source, given.compute)
                log = f"tofu_log_{when}.json"
                found[when] = tofu_scores.measure(
                    model, settings.benchmark, directory, log
                )
    return found
