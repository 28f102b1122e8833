# SPDX-License-Identifier: Apache-2.0
"""What a loss reads whose unlearning reaches inside the model, and the terms of states inside."""

from collections.abc import Callable
from typing import Any

import jax

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.base import Method, TargetMethod, TokenMethod
from jax_surgery.models import decoder, logprobs, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import shifted


def states(
    params: Any,
    config: ModelConfig,
    batch: Batch,
    rows: RoleRows,
    forward: Callable[..., jax.Array],
) -> tuple[jax.Array, list[jax.Array]]:
    """Final hidden states [B, T, D], and those inside of the unlearn rows, [U, T, D] each.

    The unlearn rows are a pass of their own, of the copy where there is one.

    Args:
      forward: a partial `decoder.forward_packed`, whose options are taken.
    """
    moved = params
    if batch.shift is not None:
        plus = lambda w, d: w + jax.lax.stop_gradient(batch.shift_factor * d)
        moved = params | {"layers": jax.tree.map(plus, params["layers"], batch.shift)}
    how = forward.keywords  # pyrefly: ignore[missing-attribute]
    of_unlearn = batch.take(rows, "unlearn")
    own, inside = decoder.forward_with_inside(moved, config, of_unlearn, **how)
    found = rows.put(own, "unlearn")
    others = [role for role in ("update", "retain") if role in rows.present]
    if others:
        rest = rows.only_of(*others)
        of_others = forward(params, config, batch.take(rows, *others))
        for role in others:
            found += rows.put(rest.take(of_others, role), role)
    return found, inside


def of_lens(
    method: Method,
    weight: float,
    rows: RoleRows,
    batch: Batch,
    weights_BT: jax.Array,
    states_UTD: jax.Array,
) -> token_sums.Part:
    """The unlearn term of states inside.

    Args:
      weight: of the term in the loss.
      weights_BT: of tokens in the term's mean.
    """
    assert isinstance(method, TokenMethod), "others are refused"
    weights_UT = rows.take(weights_BT, "unlearn")
    others = [rows.take(shifted(batch.tokens_BT), "unlearn"), weights_UT]
    if isinstance(method, TargetMethod):
        ends = map(shifted, method.targets(batch))
        others += [rows.take(array, "unlearn") for array in ends]

    def terms(heads, hidden_CD, tokens_C, weights_C, *ends):
        found = logprobs.of_targets(heads[0], hidden_CD, tokens_C)
        if isinstance(method, TargetMethod):
            values_C = method.of_chunk(heads[0], hidden_CD, tokens_C, found, *ends)
        else:
            values_C = method.unlearn(found)
        return {token_sums.LOSS: weight * (weights_C * values_C).sum()}

    return token_sums.Part(terms, states_UTD, others, weights_UT != 0)
