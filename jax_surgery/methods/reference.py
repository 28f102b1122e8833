# SPDX-License-Identifier: Apache-2.0
"""What losses read from the frozen model: hidden states or log-probabilities."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import at_targets, shifted

FIELDS = {"retain": "reference_hidden_RTD", "unlearn": "reference_logp_UT"}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is read from the frozen model on the rows of a role.

    Attributes:
      kind: "hidden" states [R, T, D] in the compute dtype, or "logp" of each token as
        it is predicted, [U, T] float32.
      layer: whose output the hidden states are; None for the final, normed ones.
    """

    kind: Literal["hidden", "logp"]
    layer: int | None = None

    @property
    def key(self) -> str:
        """The part of a cache's key beside the model and the text; "" by default."""
        usual = self == Reading("hidden")
        return "" if usual else f"-{self.kind}-{self.layer}"

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """The shape of the values of each token."""
        return (config.hidden_size,) if self.kind == "hidden" else ()

    def dtype(self, compute: decoder.Compute) -> str:
        """The dtype of these values."""
        return compute.dtype if self.kind == "hidden" else "float32"

    def of_states(self, states, params, batch: Batch, compute) -> jax.Array:
        """What is read, from hidden states that are computed already."""
        if self.kind == "hidden":
            return states
        head_SDV = output_head.copies(params, compute)
        targets_BT = shifted(batch.tokens_BT)
        return at_targets(logprobs.token_logprobs(states, head_SDV, targets_BT).logp_BT)

    def read(
        self, params: Any, config: ModelConfig, batch: Batch, compute: decoder.Compute
    ) -> jax.Array:
        """What is read from a model on rows: one forward pass without a gradient."""
        states = states_of(params, config, batch, compute, self.layer)
        return self.of_states(states, params, batch, compute)


def states_of(
    params: Any, config: ModelConfig, batch: Batch, compute: decoder.Compute, layer
) -> jax.Array:
    """Hidden states without a gradient: final ones, or the output of a layer."""
    states = decoder.forward_packed(
        params,
        config,
        batch,
        compute=compute,
        num_layers=None if layer is None else layer + 1,
    )
    return jax.lax.stop_gradient(states)


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
    absent = {r: v for r, v in readings.items() if getattr(batch, FIELDS[r]) is None}
    if absent:
        taken, layout = batch.text.take(rows, *absent), rows.only_of(*absent)
        # A method reads one depth: its layer, or the end.
        (layer,) = {reading.layer for reading in absent.values()}
        states = states_of(reference_params, config, taken, compute, layer)
        for role, reading in absent.items():
            found = reading.of_states(
                layout.take(states, role),
                reference_params,
                taken.take(layout, role),
                compute,
            )
            batch = batch.replace(**{FIELDS[role]: jax.lax.stop_gradient(found)})
    retain = readings.get("retain")
    if retain is not None and retain.layer is None:
        head_SDV = output_head.copies(reference_params, compute)
        batch = batch.replace(reference_head_SDV=head_SDV)
    return batch
