# SPDX-License-Identifier: Apache-2.0
"""Edits as files: apply one to a model, undo it, scale it, make one of several.

Hardware: a CPU; host memory holds the edit and a piece of the model.

Command to run, which writes the edited model to runs/applied/model, and beside it
rollback.safetensors and edit.safetensors, which can restore what was removed:
python -m jax_surgery.main --config=configs/edit.py --config.action=apply \
    --config.edits=runs/u/edit.safetensors --config.model=DIR --workdir=runs/applied

Undo it, to the bit, to runs/before/model:
python -m jax_surgery.main --config=configs/edit.py --config.action=rollback \
    --config.edits=runs/applied/rollback.safetensors --config.model=runs/applied/model \
    --workdir=runs/before

Half of it; two as one (runs/WORKDIR/edit.safetensors); what one is:
python -m jax_surgery.main --config=configs/edit.py --config.action=scale \
    --config.scale=0.5 --config.edits=runs/u/edit.safetensors --workdir=runs/half
python -m jax_surgery.main --config=configs/edit.py --config.action=compose \
    --config.edits=runs/u/edit.safetensors,runs/v/edit.safetensors --workdir=runs/uv
python -m jax_surgery.main --config=configs/edit.py --config.edits=runs/uv/edit.safetensors
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config; fields that an action does not use must stay as they are here."""
    config = ConfigDict()
    config.run = "edit"
    config.action = "show"  # or "apply", "rollback", "scale", "compose"
    config.edits = ""  # edits' files, comma-separated; for rollback, its file
    config.model = ""  # "embedded", "suite", a directory, or a hub name
    config.scale = 1.0  # for apply and scale: the edit is taken as many times
    config.rank = 0  # for compose: of the new edit at most; 0 keeps all
    return config
