# SPDX-License-Identifier: Apache-2.0
"""TOFU: a small Llama is fitted to it, and then a split is unlearned.

Files -> a model fitted to `full` -> `runs.surgery` on the benchmark `tofu`: the forget
split is unlearned, refusals or the user's answers are learned, the retain split is
retained -> answer probability and ROUGE-L on forget, retain and held-out questions.
"""

import dataclasses
from typing import Any

from etils import epath

from jax_surgery.benchmarks import tofu
from jax_surgery.checkpoints import hf_index, hf_weights
from jax_surgery.config import section
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.parallel import distributed
from jax_surgery.runs import pretrain, surgery
from jax_surgery.runs.pretrain import PretrainSettings


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
    options = dataclasses.asdict(settings.benchmark).items()
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
        benchmark="tofu:" + ",".join(f"{name}={value}" for name, value in options),
        data=data,
    )


def run(settings: TofuSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Raises:
      FileNotFoundError, ValueError: TOFU's files are absent or malformed.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    model = fit(settings, directory)
    with section("surgery", SurgerySettings):
        return surgery.run(surgery_settings(settings, model), directory)
