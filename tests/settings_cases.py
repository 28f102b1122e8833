# SPDX-License-Identifier: Apache-2.0
"""Settings for tests: those of a config in `configs/`, with some fields changed."""

import importlib
import pathlib
from typing import Any

from ml_collections import ConfigDict

from jax_surgery.methods.descent import descend
from jax_surgery.runs import settings
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.train import devices

ROOT = pathlib.Path(__file__).parents[1]
# Of each run, its config.
FILES = {name: ROOT / "configs" / f"{name}.py" for name in settings.RUNS}

# A surgery without what the embedded benchmark needs: plain AdamW on every parameter.
PLAIN = {
    "method": "surgery:ascent=none",
    "data": {"questions": "", "surprise": 0.0, "context": 32, "average": "sequences"},
    "objective": {
        "alpha": 1.0,
        "beta": 1.0,
        "gamma": 1.0,
        "kl_direction": "model_to_reference",
    },
    "optimizer": {
        "name": "adamw",
        "learning_rate": 1e-2,
        "momentum": 0.0,
        "schedule": "cosine",
        "first_layer": 0,
        "matrices": "",
    },
    "statistics": {"ridge": 1e-3},
    "loop": {"checkpoint_every": 0, "evaluate_every": 0},
    "baseline_epochs": 3.0,
}


def load_config(path) -> ConfigDict:
    return importlib.import_module(f"configs.{path.stem}").get_config()


def leaves(values: dict, path=()) -> list[tuple[str, ...]]:
    """Paths of all fields and sections."""
    found = []
    for key, value in values.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += leaves(value, (*path, key))
    return found


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Nested fields, the second's where both have one."""
    found = dict(one)
    for key, value in other.items():
        inner = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if inner else value
    return found


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields named "section.field" as sections."""
    found: dict[str, Any] = {}
    for path, value in fields.items():
        for key in reversed(path.split(".")):
            value = {key: value}
        found = merged(found, value)
    return found


def config_of(name: str, fields: dict[str, Any]) -> ConfigDict:
    """configs/NAME.py with fields changed, named "section.field" or in sections."""
    config = importlib.import_module(f"configs.{name}").get_config()
    return ConfigDict(merged(config.to_dict(), nested(fields)))


def settings_of(name: str, fields: dict[str, Any] | None = None, **sections: Any):
    """The settings of `config_of`; an unknown field is an error."""
    return settings.from_config(config_of(name, (fields or {}) | sections))


def plain_surgery(**fields: Any):
    """The settings of a surgery by `PLAIN` with fields changed."""
    return settings_of("surgery", merged(PLAIN, nested(fields)))


def changed(settings, directory: str, *callbacks) -> Any:
    """The parameters after the steps of a surgery, without its report.

    On a mesh as the whole run is: without one a resumed run, whose arrays are known to
    lie on a device, would compile its step again.
    """
    case = ByRoles(settings)
    make_callbacks = lambda model_of: callbacks
    with devices.on_mesh(settings.mesh):
        model = case.load()
        return descend(model, case.texts, settings, directory, make_callbacks).params
