# SPDX-License-Identifier: Apache-2.0
"""Looks for traces of unlearned text in a model: in what it says, and in its layers.

The run: check the texts -> load the models -> membership scores of unlearned and of unseen
texts -> logit lens and patches, layer by layer -> results.json, report.
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from jax_surgery import benchmarks
from jax_surgery.attacks import depth, membership
from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import at_least, names
from jax_surgery.data import records
from jax_surgery.data.forms import Record
from jax_surgery.metrics.intervals import bootstrap_mean
from jax_surgery.metrics.whole_texts import whole_texts
from jax_surgery.models.compute import Compute
from jax_surgery.models.model import Model
from jax_surgery.parallel import progress
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.report import privacy as privacy_report
from jax_surgery.train import devices

MODELS = ("model", "reference_model", "original_model")  # fields that name one


@dataclasses.dataclass(frozen=True)
class PrivacyData:
    """Texts of which traces are looked for.

    Attributes:
      unlearn: sources of what was unlearned, comma-separated.
      holdout: sources of text of the same kind that no model has seen; "" leaves
        membership inference out.
      context: tokens a row.
    """

    unlearn: str
    holdout: str
    context: int

    def __post_init__(self):
        at_least(2, self, "config.data", "context")


@dataclasses.dataclass(frozen=True)
class PrivacySettings:
    """A search for traces (`run = "privacy"`).

    Attributes:
      model: a finished run's workdir, a directory or hub name, or a benchmark's name.
      reference_model: the same, of a model that never knew; "" has none.
      original_model: the same, of the model before unlearning; "" measures no depth.
      scores: names in `membership.SCORES`, comma-separated; "" takes all that can be
        measured.
      min_k: share of a text's tokens that `min_k` and `min_k_plus_plus` take.
    """

    run: str
    model: str
    reference_model: str
    original_model: str
    scores: str
    min_k: float
    data: PrivacyData
    mesh: MeshShape
    compute: Compute

    FIXED: ClassVar = {"compute": {"unroll": 0}}

    def __post_init__(self):
        if not 0 < self.min_k <= 1:
            raise ValueError(
                f"config.min_k={self.min_k} must be a share of a text's tokens, above 0 "
                "and at most 1."
            )
        if self.original_model and not self.reference_model:
            raise ValueError(
                f"config.original_model={self.original_model!r} needs "
                "config.reference_model too: depth is measured against a model that "
                "never knew the text. Leave both empty to measure no depth."
            )
        known = [name for name in membership.SCORES if self._can(name)]
        for name in names(self.scores):
            if name == membership.REFERENCE and not self.reference_model:
                raise ValueError(
                    f"config.scores={self.scores!r} names {name!r}, which compares with "
                    "config.reference_model; give a model that never knew the text."
                )
            if name not in known:
                raise ValueError(
                    f"config.scores={self.scores!r} names {name!r}, which is no score; "
                    f"choose some of {', '.join(known)}."
                )

    def _can(self, name: str) -> bool:
        return name != membership.REFERENCE or bool(self.reference_model)

    @property
    def chosen(self) -> list[str]:
        """The names of the scores, in the order of `membership.SCORES`."""
        given = names(self.scores) or membership.SCORES
        return [n for n in membership.SCORES if n in given and self._can(n)]


def read(settings: PrivacySettings) -> tuple[list[Record], list[Record]]:
    """Texts that were unlearned, and texts that no model has seen.

    Raises:
      FileNotFoundError, ValueError: missing or bad data, or a text that is in both.
    """
    data = settings.data
    members = records.read_role(data.unlearn, "unlearn")
    others = records.read_role(data.holdout, "holdout") if names(data.holdout) else []
    records.check_overlap(members, others, "holdout")
    return members, others


def run(settings: PrivacySettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Returns:
      {"model", "reference_model", "original_model", "texts": {"unlearn", "holdout"}: how
      many; where there is a holdout "membership": see `membership.told`, what
      `membership.leakage` gives, "scores": {model: {score: {"unlearn", "holdout"}}}, values
      of each text; "lens": {model: see `_layers`}; and with an original model "depth" and
      "lens_depth": see `_depth`}.

    Raises:
      FileNotFoundError, ValueError: bad data, no such model, models that cannot be
        compared, or scores that cannot be measured.
    """
    sides = read(settings)
    named = {
        "model": settings.model,
        "reference_model": settings.reference_model,
        "original_model": settings.original_model,
    }
    sources = {f: benchmarks.model_source(n) for f, n in named.items() if n}
    data, models = settings.data, {}
    with devices.on_mesh(settings.mesh):
        tokenizers = {f: hf_weights.load_tokenizer(s) for f, s in sources.items()}
        for field, source in sources.items():
            with progress.phase(f"loading {named[field]}"):
                models[field] = devices.load(
                    source, settings.compute, tokenizers[field], data.context
                )
        by_layer = {f"config.{field}": model for field, model in models.items()}
        if "original_model" in models:
            depth.check_alike(by_layer)
        results: dict[str, Any] = dict(named)
        results["texts"] = {"unlearn": len(sides[0]), "holdout": len(sides[1])}
        if sides[1]:
            results |= _membership(models, sides, settings)
        with progress.phase("reading the layers"):
            results |= _inside(models, sides[0], data.context)
    privacy_report.write(directory, results, dataclasses.asdict(settings))
    return results


def _membership(
    models: dict[str, Model],
    sides: tuple[list[Record], list[Record]],
    settings: PrivacySettings,
) -> dict[str, Any]:
    """What scores tell of the model, beside the one that never knew."""
    chosen, found = settings.chosen, {}
    for field in MODELS[:2]:
        if field in models:
            with progress.phase(f"scoring texts by config.{field}"):
                found[field] = membership.scored(
                    *(models[field], sides, chosen),
                    *(settings.min_k, settings.data.context),
                )
    own, never = found["model"], found.get("reference_model")
    if never is not None:
        own = membership.with_reference(own, never)
    told = membership.told(own, never, chosen)
    values = {
        field: {
            name: {"unlearn": s.members.tolist(), "holdout": s.others.tolist()}
            for name, s in scores.items()
            if name in chosen
        }
        for field, scores in (found | {"model": own}).items()
    }
    return {"membership": told, "scores": values} | membership.leakage(told)


def _inside(
    models: dict[str, Model], unlearned: list[Record], context: int
) -> dict[str, Any]:
    """What the layers hold of the unlearned texts, whose ends are not asked."""
    texts = {
        f: whole_texts(unlearned, m, context, ends=False) for f, m in models.items()
    }
    original = models.get("original_model")
    read = {f: depth.lens(m, texts[f], original) for f, m in models.items()}
    found: dict[str, Any] = {"lens": {f: _layers(logp) for f, logp in read.items()}}
    if original is None:
        return found
    gaps = depth.Drops(*(read["original_model"] - read[f] for f in MODELS[1::-1]))
    never, own = models["reference_model"], models["model"]
    patched = depth.drops(original, never, own, texts["original_model"])
    asked = len(texts["original_model"])
    return found | {
        "depth": _depth(patched, asked),
        "lens_depth": _depth(gaps, asked),
    }


def _depth(found: depth.Drops, asked: int) -> dict[str, Any]:
    """A depth as results.json has it.

    Returns:
      {"value", "interval", "n": texts that some layer holds, "asked": texts,
      "reference": 1, "direction", "layers": by what the drops are of ("reference_model",
      "model") see `_layers`, "held": of each layer the share of texts that it holds}.
    """
    held = (found.reference > depth.LEAST).mean(1)
    return dataclasses.asdict(found.depth()) | {
        "asked": asked,
        "direction": "ignorant",
        "layers": {
            "reference_model": _layers(found.reference),
            "model": _layers(found.model),
        },
        "held": held.tolist(),
    }


def _layers(values: np.ndarray) -> list[dict[str, Any]]:
    """Of each layer the mean over texts, nats per token: {"layer", "value", "interval",
    "n"}.

    Args:
      values: [layers, texts].

    Raises:
      ValueError: values that are no numbers.
    """
    if not np.isfinite(values).all():
        raise ValueError(
            "what the layers say is no finite number; the weights of a model hold NaN or "
            "are too large for config.compute.dtype. Use float32, or another checkpoint."
        )
    return [
        {
            "layer": number,
            "value": float(of_layer.mean()),
            "interval": bootstrap_mean(of_layer),
            "n": len(of_layer),
        }
        for number, of_layer in enumerate(values, start=1)
    ]
