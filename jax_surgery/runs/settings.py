# SPDX-License-Identifier: Apache-2.0
"""The runs: `config.run` names one, which has a module and settings of its own."""

import importlib
from typing import Any, NamedTuple

from jax_surgery.config import build


class Run(NamedTuple):
    """A run: its module of `jax_surgery.runs`, and the name of its settings there.

    The module is loaded when it is needed: a training run does not load what only the
    plan reads.
    """

    module: str
    settings: str

    def load(self) -> Any:
        """The module, with a function `run(settings, directory)`."""
        return importlib.import_module(f"jax_surgery.runs.{self.module}")


RUNS = {
    "surgery": Run("surgery", "SurgerySettings"),
    "unlearn": Run("surgery", "TasksSettings"),
    "learn": Run("surgery", "TasksSettings"),
    "tofu": Run("tofu", "TofuSettings"),
    "pretrain": Run("pretrain", "PretrainSettings"),
    "evaluate": Run("evaluate", "EvaluateSettings"),
    "attack": Run("attack", "AttackSettings"),
    "plan": Run("plan", "PlanSettings"),
    "edit": Run("patch", "EditSettings"),
    "export": Run("export", "ExportSettings"),
    "benchmark": Run("export", "ExportSettings"),  # the old name of "export"
}


def settings_class(run: str | None) -> type:
    """The settings dataclass of a run.

    Raises:
      ValueError: no such run.
    """
    if run not in RUNS:
        raise ValueError(f"config.run={run!r}; choose one of {', '.join(RUNS)}.")
    return getattr(RUNS[run].load(), RUNS[run].settings)


def from_config(config: Any) -> Any:
    """The settings of a config, of the class that `config.run` asks for.

    Args:
      config: an `ml_collections.ConfigDict` or a nested dict.

    Raises:
      ValueError: unknown run, unknown key, wrong type or value.
    """
    values = config if isinstance(config, dict) else config.to_dict()
    return build(settings_class(values.get("run")), values)
