# SPDX-License-Identifier: Apache-2.0
"""Which settings each run has: `config.run` names one of `RUNS`."""

import importlib
from typing import Any

from jax_surgery.config import build

# The settings class of each run, loaded when it is needed: a training run does not load
# what only the plan reads.
RUNS = {
    "surgery": "jax_surgery.methods.settings.SurgerySettings",
    "unlearn": "jax_surgery.runs.tasks_settings.TasksSettings",
    "learn": "jax_surgery.runs.tasks_settings.TasksSettings",
    "tofu": "jax_surgery.runs.tofu.TofuSettings",
    "pretrain": "jax_surgery.runs.pretrain.PretrainSettings",
    "evaluate": "jax_surgery.runs.evaluate.EvaluateSettings",
    "attack": "jax_surgery.runs.attack.AttackSettings",
    "plan": "jax_surgery.plan.settings.PlanSettings",
    "edit": "jax_surgery.runs.patch_settings.EditSettings",
    "export": "jax_surgery.runs.export.ExportSettings",
    "benchmark": "jax_surgery.runs.export.ExportSettings",  # the old name of "export"
}


def settings_class(run: str | None) -> type:
    """The settings dataclass of a run.

    Raises:
      ValueError: no such run.
    """
    if run not in RUNS:
        raise ValueError(f"config.run={run!r}; choose one of {', '.join(RUNS)}.")
    module, _, name = RUNS[run].rpartition(".")
    return getattr(importlib.import_module(module), name)


def from_config(config: Any) -> Any:
    """The settings of a config, of the class that `config.run` asks for.

    Args:
      config: an `ml_collections.ConfigDict` or a nested dict.

    Raises:
      ValueError: unknown run, unknown key, wrong type or value.
    """
    values = config if isinstance(config, dict) else config.to_dict()
    return build(settings_class(values.get("run")), values)
