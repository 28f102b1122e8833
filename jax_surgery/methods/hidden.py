# SPDX-License-Identifier: Apache-2.0
"""Terms on the hidden states of one layer; layers above it are not computed."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import decoder, output_head, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable


def loss_of(
    loss: Any,
    params: Any,
    config: ModelConfig,
    batch: Batch,
    safe: dict[str, jax.Array],
    rows: RoleRows,
    compute: decoder.Compute,
    trainable: Trainable,
) -> dict[str, jax.Array]:
    """The loss and its terms: the method's on unlearn and retain rows, CE on update's.

    The rows to update, which need every layer, are a forward pass of their own.
    """
    objective, method = loss.objective, loss.method
    found = {token_sums.LOSS: jnp.zeros(())}
    steered = [role for role in ("unlearn", "retain") if role in rows.present]
    part, layout = batch.take(rows, *steered), rows.only_of(*steered)
    states = decoder.forward_packed(
        params,
        config,
        part,
        compute=compute,
        first_trained_layer=trainable.first_layer,
        num_layers=method.needs.layer + 1,
    )
    terms = {}
    if "unlearn" in steered:
        weights_UT = rows.take(batch.weights_BT, "unlearn")
        values_UT = method.unlearn(layout.take(states, "unlearn"))
        terms["unlearn"] = objective.alpha, weights_UT, values_UT
    if "retain" in steered:
        weights_RT = rows.take(batch.position_weights_BT, "retain")
        hidden_RTD = layout.take(states, "retain")
        values_RT = method.retain(hidden_RTD, batch.reference_hidden_RTD)
        terms["retain"] = objective.gamma, weights_RT, values_RT
    for role, (weight, weights_RT, values_RT) in terms.items():
        value = (weights_RT * values_RT).sum() / safe[role]
        found[token_sums.LOSS] += weight * value
        found[f"{role}_loss"] = value
    if rows.update:
        more = _update(loss, params, config, batch, safe, rows, compute, trainable)
        found[token_sums.LOSS] += more.pop(token_sums.LOSS)
        found["update_ce"] = more["update_ce"]
    return found


def _update(loss, params, config, batch, safe, rows, compute, trainable):
    """Sums of CE over the rows to update."""
    part, layout = batch.take(rows, "update"), rows.only_of("update")
    states = decoder.forward_packed(
        params,
        config,
        part,
        compute=compute,
        first_trained_layer=trainable.first_layer,
    )
    head_SDV, states = output_head.copies_for(
        params, states, compute, moves=not trainable.matrices
    )
    learned = loss.learned_part(layout, part, states, safe)
    return token_sums.token_sums([learned], head_SDV, tied=config.tie_embeddings)
