# SPDX-License-Identifier: Apache-2.0
"""What losses read from the frozen model: hidden states or log-probabilities."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import at_targets, shifted


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is read from the frozen model on the rows of a role.

    Attributes:
      role: "retain": hidden states [R, T, D] in the compute dtype; "unlearn": log p of
        each token as it is predicted, [U, T] float32, or hidden states like the other's.
      layer: whose output the hidden states are; None for the final, normed ones.
      logits: whether all logits of the unlearn rows are needed, of which hidden states
        are what is kept.
    """

    role: str
    layer: int | None = None
    logits: bool = False

    @property
    def hidden(self) -> bool:
        """Whether hidden states are read."""
        return self.role == "retain" or self.logits

    @property
    def field(self) -> str:
        """The field of a batch that holds what is read."""
        if self.role == "retain":
            return "reference_hidden_RTD"
        return "reference_hidden_UTD" if self.logits else "reference_logp_UT"

    @property
    def key(self) -> str:
        """The part of a cache's key beside the model and the text; "" by default."""
        if not self.hidden:
            return f"-logp-{self.layer}"
        return "" if self.layer is None else f"-hidden-{self.layer}"

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """The shape of the values of each token."""
        return (config.hidden_size,) if self.hidden else ()

    def dtype(self, compute: decoder.Compute) -> str:
        """The dtype of these values."""
        return compute.dtype if self.hidden else "float32"

    def read(
        self,
        params: Any,
        config: ModelConfig,
        batch: Batch,
        compute: decoder.Compute,
        first: int = 0,
    ) -> jax.Array:
        """What is read from a model on rows: one forward pass without a gradient.

        Args:
          first: the layer that the batch's `lower_BTD` enters, where it has them.
        """
        states = _states(params, config, batch, compute, self.layer, first)
        return self._of_states(states, params, config, batch, compute)

    def _of_states(self, states, params, config, batch: Batch, compute) -> jax.Array:
        """What is read, from hidden states that are computed already."""
        if self.hidden:
            return states
        head_SDV = output_head.copies(params, config, compute)
        targets_BT = shifted(batch.tokens_BT)
        return at_targets(logprobs.token_logprobs(states, head_SDV, targets_BT).logp_BT)


def _states(
    params, config, batch, compute, layer: int | None, first: int = 0
) -> jax.Array:
    """Hidden states without a gradient: final ones, or the output of a layer."""
    how = {"num_layers": None if layer is None else layer + 1}
    how |= {"compute": compute, "first_trained_layer": first}
    return jax.lax.stop_gradient(decoder.forward_packed(params, config, batch, **how))


def attach(
    batch: Batch,
    readings: Mapping[str, Reading],
    reference_params: Any,
    config: ModelConfig,
    rows: RoleRows,
    compute: decoder.Compute,
) -> Batch:
    """A batch with what is read of the frozen model.

    What the batch has already (the cached reference) is left as it is; both are exact.
    The rows of all remaining roles take one forward pass.
    """
    absent = {r: v for r, v in readings.items() if getattr(batch, v.field) is None}
    if not absent:
        return batch
    taken, layout = batch.text.take(rows, *absent), rows.only_of(*absent)
    # A method reads one depth: its layer, or the end.
    (layer,) = {reading.layer for reading in absent.values()}
    states = _states(reference_params, config, taken, compute, layer)
    for role, reading in absent.items():
        of_role, text = layout.take(states, role), taken.take(layout, role)
        found = reading._of_states(of_role, reference_params, config, text, compute)
        found = jax.lax.stop_gradient(found)
        batch = batch.replace(**{reading.field: found})
    return batch
