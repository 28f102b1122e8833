# SPDX-License-Identifier: Apache-2.0
"""Settings: what a config may hold, as frozen dataclasses.

Config dictionaries become these at the boundary, so that a mistyped key or a value
of the wrong type fails at once.
"""

import dataclasses
import difflib
import types
import typing
from typing import Any

from jax_surgery.methods.objective import Objective
from jax_surgery.methods.subspace.settings import SubspaceSettings
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim.lora import LowRank
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.runs.patch_settings import EditSettings
from jax_surgery.train.loop_settings import Loop, at_least, positive_ridge


@dataclasses.dataclass(frozen=True)
class RoleData:
    """What a run reads; a role's field lists its sources (see `data.records`)."""

    unlearn: str = ""
    update: str = ""
    retain: str = ""
    rows_unlearn: int = 0  # rows of each batch
    rows_update: int = 0
    rows_retain: int = 0
    context: int = 256  # tokens a row
    average: str = "sequences"  # CE: mean over tokens then texts; or "tokens"
    surprise: float = 0.0  # nats; unlearn only tokens that surprise kept text as much
    questions: str = ""  # "embedded", a questions JSONL, or "" for none

    def __post_init__(self):
        rows = ("rows_unlearn", "rows_update", "rows_retain")
        at_least(0, self, "config.data", *rows, "surprise")
        at_least(2, self, "config.data", "context")

    @property
    def rows(self) -> dict[str, int]:
        """Rows of a batch by role."""
        return {
            "unlearn": self.rows_unlearn,
            "update": self.rows_update,
            "retain": self.rows_retain,
        }


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Second moments of kept text, for the preconditioner."""

    sources: str = ""  # what must stay; "" takes data.retain
    tokens: int = 50_000  # read for them; 0 reads all
    ridge: float = 1e-3  # relative to the mean eigenvalue
    refresh: int = 0  # steps between recomputations; 0 for once

    def __post_init__(self):
        at_least(0, self, "config.statistics", "tokens", "refresh")
        positive_ridge(self.ridge, "config.statistics")


@dataclasses.dataclass(frozen=True)
class SurgerySettings:
    """A surgery run (`run = "surgery"`)."""

    run: str = "surgery"
    model: str = "embedded"  # "embedded", a directory, or a hub name
    seed: int = 0
    data: RoleData = dataclasses.field(default_factory=RoleData)
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    compute: Compute = dataclasses.field(default_factory=Compute)
    objective: Objective = dataclasses.field(default_factory=Objective)
    reference: str = "live"  # "live", or "cached" hidden states on disk
    lora: LowRank = dataclasses.field(default_factory=LowRank)
    optimizer: OptimizerChoice = dataclasses.field(default_factory=OptimizerChoice)
    steps: int = 100
    accumulate: int = 1  # micro-batches a step
    statistics: Statistics = dataclasses.field(default_factory=Statistics)
    loop: Loop = dataclasses.field(default_factory=Loop)
    baseline_epochs: float = 3.0  # passes of the naive alternative, for the cost

    def __post_init__(self):
        if self.reference not in ("live", "cached"):
            raise ValueError(
                f"config.reference={self.reference!r}; use 'live' or 'cached'."
            )
        at_least(1, self, "config", "steps", "accumulate")
        if self.lora.rank:
            self.lora.check_optimizer(self.optimizer)

    def trainable(self, config: ModelConfig) -> Trainable:
        """The matrices of a model that move, or whose low-rank deltas do.

        Raises:
          ValueError: see `OptimizerChoice.trainable` and `LowRank.trainable`.
        """
        if self.lora.rank:
            return self.lora.trainable(config, self.optimizer.first_layer)
        return self.optimizer.trainable(config)


@dataclasses.dataclass(frozen=True)
class NewModel:
    """Architecture and tokenizer of a model that is trained from nothing."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 1024
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 4
    tokenizer: str = "bpe"  # or "words": one token a word
    tokenizer_texts: str = ""  # sources that the tokenizer is trained on

    def __post_init__(self):
        if self.tokenizer not in ("bpe", "words"):
            raise ValueError(
                f"new_model.tokenizer={self.tokenizer!r}; use 'bpe' or 'words'."
            )


@dataclasses.dataclass(frozen=True)
class PretrainData:
    """Text of a pretraining run."""

    train: str = ""  # sources
    rows: int = 8  # of a batch
    context: int = 256  # tokens a row
    epochs: float = 12.0  # passes over the text
    questions: str = ""  # as RoleData.questions

    def __post_init__(self):
        at_least(1, self, "config.data", "rows")
        at_least(2, self, "config.data", "context")


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """Training a small Llama from nothing (`run = "pretrain"`)."""

    run: str = "pretrain"
    seed: int = 0
    new_model: NewModel = dataclasses.field(default_factory=NewModel)
    data: PretrainData = dataclasses.field(default_factory=PretrainData)
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    compute: Compute = dataclasses.field(default_factory=Compute)
    optimizer: OptimizerChoice = dataclasses.field(default_factory=OptimizerChoice)
    save_dtype: str = "bfloat16"  # of the exported weights
    loop: Loop = dataclasses.field(default_factory=Loop)


@dataclasses.dataclass(frozen=True)
class EvaluateData:
    """What a model is asked."""

    questions: str = ""  # as RoleData.questions
    text: str = ""  # JSONL files, comma-separated: nll of each
    context: int = 256  # tokens a row

    def __post_init__(self):
        at_least(2, self, "config.data", "context")


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Evaluating a model directory (`run = "evaluate"`)."""

    run: str = "evaluate"
    model: str = "embedded"
    data: EvaluateData = dataclasses.field(default_factory=EvaluateData)
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    compute: Compute = dataclasses.field(default_factory=Compute)


@dataclasses.dataclass(frozen=True)
class TofuData:
    """TOFU's files and what is asked of them."""

    dir: str = ""  # directory of TOFU's JSONL files
    forget: str = "forget05"  # "forget01", "forget05" or "forget10"
    update: str = ""  # sources of the update set; "" takes refusals from idk.txt
    refusals: int = 1  # refusals a question, where they make the update set
    retain_questions: int = 200  # retain questions asked (forget: all)


@dataclasses.dataclass(frozen=True)
class TofuSettings:
    """Fit to TOFU, unlearn a split, report (`run = "tofu"`)."""

    run: str = "tofu"
    data: TofuData = dataclasses.field(default_factory=TofuData)
    fit: PretrainSettings = dataclasses.field(default_factory=PretrainSettings)
    surgery: SurgerySettings = dataclasses.field(default_factory=SurgerySettings)


PLAN_CHOICES = {"program": ("step", "subspace"), "neighbours": ("auto", "yes", "no")}


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """What a step needs on a slice that is not here (`run = "plan"`).

    Attributes:
      program: "step" of training, or the programs of a "subspace" removal.
      model: a name in `model.architectures`, a directory, a hub name or "embedded".
      topology: a TPU slice, such as "v5e:4x4".
      num_slices: of them, joined by the data centre's network.
      rows: of each role on each device; 0 takes those of `surgery.data`.
      fast: memory alone, in seconds.
      neighbours: whether other settings and slices are tried; "auto" tries them where
        the step does not fit, and unless `fast`.
      surgery: the run whose step it is; its model and sources are not read.
    """

    run: str = "plan"
    program: str = "step"
    model: str = "llama2_7b"
    topology: str = "v5e:4x4"
    num_slices: int = 1
    rows: int = 1
    fast: bool = False
    neighbours: str = "auto"
    surgery: SurgerySettings = dataclasses.field(default_factory=SurgerySettings)

    def __post_init__(self):
        at_least(1, self, "config", "num_slices")
        at_least(0, self, "config", "rows")
        for name, known in PLAN_CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"config.{name}={value!r}; use {' or '.join(known)}.")


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """Writes the embedded benchmark's files (`run = "export"`)."""

    run: str = "export"


Settings = (
    SurgerySettings
    | PretrainSettings
    | EvaluateSettings
    | TofuSettings
    | PlanSettings
    | EditSettings
    | SubspaceSettings
    | ExportSettings
)
RUNS = {
    "surgery": SurgerySettings,
    "pretrain": PretrainSettings,
    "evaluate": EvaluateSettings,
    "tofu": TofuSettings,
    "plan": PlanSettings,
    "edit": EditSettings,
    "unlearn": SubspaceSettings,
    "learn": SubspaceSettings,
    "export": ExportSettings,
    "benchmark": ExportSettings,  # the old name of "export"
}


def _convert(value: Any, kind: Any, path: str) -> Any:
    """Checks a leaf's type; whole numbers pass as floats."""
    if typing.get_origin(kind) is typing.Literal:
        kind = str
    if typing.get_origin(kind) is types.UnionType:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(
            f"{path}={value!r} must be of type {kind.__name__}, "
            f"got {type(value).__name__}."
        )
    return value


def build(cls: type, values: dict[str, Any], path: str = "config") -> Any:
    """A settings dataclass from nested plain values.

    Raises:
      ValueError: an unknown key (with the nearest valid one), or a wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kinds = typing.get_type_hints(cls)
    result = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {path}.{near[0]}? " if near else ""
            raise ValueError(
                f"{path}.{key} does not exist; {hint}{path} has: {', '.join(fields)}."
            )
        kind = kinds[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise ValueError(f"{path}.{key}={value!r} must be a section of fields.")
            result[key] = build(kind, value, f"{path}.{key}")
        else:
            result[key] = _convert(value, kind, f"{path}.{key}")
    return cls(**result)


def from_config(config: Any) -> Settings:
    """The settings of a config; `config.run` says which kind.

    Args:
      config: an `ml_collections.ConfigDict` or a nested dict.

    Raises:
      ValueError: unknown run, unknown key, wrong type or value.
    """
    values = config if isinstance(config, dict) else config.to_dict()
    run = values.get("run")
    if run not in RUNS:
        raise ValueError(f"config.run={run!r}; choose one of {', '.join(RUNS)}.")
    return build(RUNS[run], values)
