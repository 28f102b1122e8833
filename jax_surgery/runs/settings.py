# SPDX-License-Identifier: Apache-2.0
"""The runs: `config.run` names one, which has a module and settings of its own."""

import importlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_surgery.config import build, short


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
    "lm_eval": Run("harness", "HarnessSettings"),
    "attack": Run("attack", "AttackSettings"),
    "privacy": Run("privacy", "PrivacySettings"),
    "compare": Run("compare", "CompareSettings"),
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
    if not isinstance(run, str) or run not in RUNS:
        raise ValueError(f"config.run={short(run)}; choose one of {', '.join(RUNS)}.")
    return getattr(RUNS[run].load(), RUNS[run].settings)


def check_url(text: str, path: str) -> None:
    """Raises ValueError for a URL that nothing here reads or writes.

    Args:
      text: of a field or a flag, such as a list of sources.
      path: its name, "config.model" or "--workdir".
    """
    for scheme in re.findall(r"(\w[\w+.-]*)://", text):
        # A source may name its reader first, hf:gs://...
        if scheme != "gs":
            raise ValueError(
                f"{path}={short(text)}: {scheme}:// is neither read nor written; use a "
                "local path or gs://BUCKET/PATH."
            )


def _check_urls(values: Mapping[str, Any], path: str = "config") -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _check_urls(value, f"{path}.{name}")
        elif isinstance(value, str):
            check_url(value, f"{path}.{name}")


def from_config(config: Any) -> Any:
    """The settings of a config, of the class that `config.run` asks for.

    Args:
      config: an `ml_collections.ConfigDict` or a nested dict.

    Raises:
      ValueError: unknown run, unknown key, wrong type or value, no model.
    """
    values = config if isinstance(config, dict) else config.to_dict()
    run = values.get("run")
    settings = build(settings_class(run), values)
    _check_urls(values)
    # Not every action on edit files has a model; `patch` says which do.
    if run != "edit" and not getattr(settings, "model", "model").strip():
        raise ValueError(
            "config.model is empty; give a directory in Hugging Face format, the name "
            "of one on the hub, a finished run's workdir, or a benchmark that has one "
            "('embedded', 'suite')."
        )
    return settings
