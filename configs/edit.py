# SPDX-License-Identifier: Apache-2.0
"""Applies, rolls back, scales, composes and shows edit files.

Hardware: a CPU; host memory holds the edit and one piece of the model.

Command to run. It writes the edited model to runs/applied/model, and beside it
rollback.safetensors and edit.safetensors; whoever has either can restore what was
removed:
python -m jax_surgery.main --config=configs/edit.py --config.action=apply \
    --config.edits=runs/u/edit.safetensors --config.model=DIR --workdir=runs/applied

Roll it back; runs/before/model has exactly the bits of the model before the edit:
python -m jax_surgery.main --config=configs/edit.py --config.action=rollback \
    --config.edits=runs/applied/rollback.safetensors --config.model=runs/applied/model \
    --workdir=runs/before

Halve an edit; combine two into one (each writes WORKDIR/edit.safetensors); show one:
python -m jax_surgery.main --config=configs/edit.py --config.action=scale \
    --config.scale=0.5 --config.edits=runs/u/edit.safetensors --workdir=runs/half
python -m jax_surgery.main --config=configs/edit.py --config.action=compose \
    --config.edits=runs/u/edit.safetensors,runs/v/edit.safetensors --workdir=runs/uv
python -m jax_surgery.main --config=configs/edit.py --config.edits=runs/uv/edit.safetensors
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; a field that the action does not use must keep its default."""
    config = ConfigDict()
    config.run = "edit"
    config.action = "show"  # or "apply", "rollback", "scale", "compose"
    config.edits = ""  # files of edits, comma-separated; rollback takes its own file
    config.model = ""  # "embedded", "suite", a directory, or a hub name
    config.scale = 1.0  # for apply and scale: factor on the edit's change
    config.rank = 0  # for compose: highest rank of the new edit; 0 keeps it exact
    return config
