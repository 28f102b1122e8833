# SPDX-License-Identifier: Apache-2.0
"""The model that never knew, beside which attacks are read: trained on request, or the
finished log of an attack on it."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jax_surgery.attacks.curve import Point
from jax_surgery.benchmarks import model_source
from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import positive
from jax_surgery.data.forms import Record
from jax_surgery.models.model import Model
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.parallel import progress
from jax_surgery.runs import pretrain
from jax_surgery.runs.pretrain import PretrainData
from jax_surgery.train import devices
from jax_surgery.train.loop import Loop

TRAIN = "train"  # config.reference_model that trains one
FOLDER = "never_knew"  # of a workdir, in which it lies
# As configs/pretrain.py trains the models of the benchmarks.
LOOP = Loop(10, 0, 0, 500, 1)
WARMUP = 100  # steps, a tenth of all at most
SAME = ("benchmark", "metrics", "measure_at", "seed", "data", "budget")


@dataclasses.dataclass(frozen=True)
class NeverKnew:
    """How a model is trained that never knew (`config.reference_model = "train"`).

    Attributes:
      start: a directory or hub name of a model to begin with, which has not read what was
        removed; "" begins with random weights of the attacked model's architecture.
      epochs: passes over the retained text.
      rows: of a batch.
      learning_rate: of AdamW, the peak.
    """

    start: str
    epochs: float
    rows: int
    learning_rate: float

    def __post_init__(self):
        for name in ("epochs", "rows", "learning_rate"):
            positive(getattr(self, name), f"config.never_knew.{name}")


def trained(
    settings: NeverKnew,
    like: Model,
    texts: Sequence[Record],
    context: int,
    seed: int,
    directory: str,
) -> str:
    """Trains a model on retained text alone, and gives the directory in which it lies; one
    that lies there already is taken.

    Args:
      like: whose architecture and tokenizer it has; its parameters are not read.
      texts: what it learns.
      directory: of the attack run.

    Raises:
      ValueError: there is no text.
      TrainingDiverged, Interrupted: see `loop.train`.
    """
    if not texts:
        raise ValueError(
            "config.reference_model='train' needs the text that a model learns which "
            "never knew: give config.data.retained, or a benchmark with groups to retain."
        )
    folder = epath.Path(directory) / FOLDER
    place = str(folder / "model")
    if (folder / "model" / "config.json").exists():
        return place
    data = PretrainData("", settings.rows, context, settings.epochs, "")
    fitted = pretrain.fit(
        lambda: _start(settings, like, seed),
        like,
        texts,
        data,
        functools.partial(_optimizer, settings),
        LOOP,
        seed,
        str(folder),
    )
    with progress.phase("writing the model that never knew"):
        hf_weights.save_model(fitted.params, like.config, place, dtype="float32")
        hf_weights.save_tokenizer(like.tokenizer, place)
    return place


def _start(settings: NeverKnew, like: Model, seed: int) -> Any:
    if not settings.start:
        return pretrain.new_params(like.config, seed)
    source = model_source(settings.start)
    return devices.load_model(source, like.compute, tokenizer=like.tokenizer).params


def _optimizer(settings: NeverKnew, steps: int) -> OptimizerChoice:
    return OptimizerChoice(
        name="adamw",
        learning_rate=settings.learning_rate,
        warmup=min(WARMUP, steps // 10),
        schedule="cosine",
        final=0.05,
        clip=1.0,
        weight_decay=0.05,
        b1=0.9,
        b2=0.98,
        momentum=0.0,
        first_layer=0,
        matrices="",
        moment_dtype="float32",
        second_moment_dtype="float32",
    )


def log_of(name: str) -> epath.Path | None:
    """The results.json of an attack run that a config names, by its workdir or the file;
    None where it names something else."""
    path = epath.Path(name)
    file = path if path.suffix == ".json" else path / "results.json"
    if not name or not file.exists():
        return None
    return file if _read(file).get("settings", {}).get("run") == "attack" else None


def _read(file: epath.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is no results.json of a run ({error}).") from None


def curves_of(
    file: epath.Path, settings: Mapping[str, Any], specs: Sequence[str]
) -> tuple[str, dict[str, list[Point]]]:
    """Curves of a model that never knew, from the log of an attack run.

    They are those of the log's own model that never knew, where it had one, and else of
    the model that it attacked.

    Args:
      settings: of the run that reads it, which must ask the same.
      specs: the attacks that are wanted.

    Returns:
      (the name of the model, points by attack).

    Raises:
      ValueError: the log is of something else that was asked, lacks an attack, or is of
        the very model that is to be compared with it.
    """
    log = _read(file)
    there = log["settings"]
    for field in SAME:
        if there.get(field) != settings[field]:
            raise ValueError(
                f"config.reference_model: {file} was made with config.{field}="
                f"{there.get(field)!r}, and this run has {settings[field]!r}; attack the "
                "model that never knew again with this run's, or change it here."
            )
    key, name = "reference_curve", log["reference_model"]
    if not name:
        key, name = "curve", log["model"]
    if name == settings["model"]:
        raise ValueError(
            f"config.reference_model: {file} is the log of {name!r} itself, the model that "
            "is attacked; give the log of one that never knew."
        )
    found = {attack["attack"]: attack[key] for attack in log["attacks"]}
    if missing := [spec for spec in specs if not found.get(spec)]:
        raise ValueError(
            f"config.reference_model: {file} has no attack {missing[0]!r}; attack the "
            "model that never knew in the same ways."
        )
    return name, {spec: found[spec] for spec in specs}
