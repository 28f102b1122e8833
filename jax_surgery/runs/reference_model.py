# SPDX-License-Identifier: Apache-2.0
"""The frozen model of a run whose reference is another model than the one before it."""

import dataclasses
from typing import Any

from jax_surgery import benchmarks
from jax_surgery.checkpoints import hf_weights
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.train import devices

# What its config may have otherwise: nothing that its logits depend on.
NOT_COMPARED = ("max_positions", "bos_token_id", "eos_token_id", "initializer_range")


def load(
    settings: SurgerySettings, config: ModelConfig, tokenizer: Any
) -> Model | None:
    """The model that `config.reference_model` names, to be run; None where it names none.

    Args:
      config: of the model that is changed.
      tokenizer: of that model.

    Raises:
      ValueError: the two differ in more than their weights.
    """
    if not settings.reference_model:
        return None
    source = benchmarks.model_source(settings.reference_model)
    own = hf_weights.load_config(source)
    for field in dataclasses.fields(config):
        one, other = getattr(own, field.name), getattr(config, field.name)
        if field.name not in NOT_COMPARED and one != other:
            raise ValueError(
                f"config.reference_model={settings.reference_model!r} has "
                f"{field.name}={one}, and config.model={settings.model!r} has {other}; "
                "the reference is a model of the same architecture."
            )
    return devices.load(source, settings.compute, tokenizer, settings.data.context)
