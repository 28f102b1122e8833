# SPDX-License-Identifier: Apache-2.0
"""A model as one value: its parameters and all that is needed to run it."""

import dataclasses
from typing import Any

from jax_surgery.models.compute import DEFAULT_COMPUTE, Compute
from jax_surgery.models.config import ModelConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A causal language model.

    The value never changes, and does not own its arrays: a step that donates parameters leaves
    every `Model` that holds them unusable, so the caller that donates
    parameters says so, and continues with `with_params`.

    Attributes:
      params: the parameters, a nested dict of arrays (see `decoder.abstract_params`).
      config: the architecture.
      tokenizer: the Hugging Face tokenizer.
      compute: dtype, rematerialisation and attention kernel of forward passes.
      source: the directory or hub name it was loaded from; "" for one made in memory.
    """

    params: Any
    config: ModelConfig
    tokenizer: Any
    compute: Compute = DEFAULT_COMPUTE
    source: str = ""

    def with_params(self, params: Any) -> "Model":
        """The same model with other parameters."""
        return dataclasses.replace(self, params=params)
