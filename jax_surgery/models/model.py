# SPDX-License-Identifier: Apache-2.0
"""A model as one value: its parameters and all that is needed to run it."""

import dataclasses
from typing import Any

from jax_surgery.data import template_marks
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
      end_tokens: what generation_config.json says ends an answer; () where it says nothing.
    """

    params: Any
    config: ModelConfig
    tokenizer: Any
    compute: Compute = DEFAULT_COMPUTE
    source: str = ""
    end_tokens: tuple[int, ...] = ()

    @property
    def stops(self) -> tuple[int, ...]:
        """Tokens that end an answer, whoever says so: the configs of the model and of
        its generation, the tokenizer, or its chat template."""
        own = self.config.eos_token_id
        listed = own if isinstance(own, list | tuple) else [own]
        known = {int(token) for token in listed if token is not None}
        ends = template_marks.end_tokens(self.tokenizer)
        return tuple(sorted(known.union(self.end_tokens, ends)))

    def with_params(self, params: Any) -> "Model":
        """The same model with other parameters."""
        return dataclasses.replace(self, params=params)
