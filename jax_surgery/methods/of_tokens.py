# SPDX-License-Identifier: Apache-2.0
"""The terms of single tokens: cross-entropies, and the unlearn term where it is of log p."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.methods.base import Method, TargetMethod, TokenMethod
from jax_surgery.models import logprobs, token_sums
from jax_surgery.models.documents import shifted


def part(
    method: Method,
    alpha: float,
    learned: Mapping[str, float],
    weights: Mapping[str, jax.Array],
    slopes: tuple[jax.Array, ...],
    batch: Batch,
    states: jax.Array,
) -> token_sums.Part:
    """The tokens that are unlearned or learned, and their terms.

    Args:
      alpha: weight of the unlearn term in the loss.
      learned: by role the weight of its cross-entropy in the loss.
      weights: by role, [B, T]: of each token in the mean of its term; "unlearn" among them
        where its term, or what is logged of it, is computed here.
      slopes: [B, T] of a sequence's term (see `sequence.slopes`), or nothing.
      batch, states: all rows, and their final hidden states [B, T, D].
    """
    roles, of_sequences = tuple(weights), bool(slopes)
    others = [shifted(batch.tokens_BT), *weights.values(), *slopes]
    active = [array_BT != 0 for array_BT in others[1:]]
    if isinstance(method, TargetMethod):
        others += map(shifted, method.targets(batch))
    # What weighs rows, and a controller the retain term, is in the loss alone: what is
    # logged of a term stays the mean.
    of_loss = dict(weights)
    if batch.row_factor_B is not None:
        of_loss = {r: row_factor(batch) * weight for r, weight in weights.items()}
    if "retain" in learned and batch.retain_factor is not None:
        of_loss["retain"] = batch.retain_factor * of_loss["retain"]
    changed = [role for role in roles if of_loss[role] is not weights[role]]
    first = len(others) - 1
    others += [of_loss[role] for role in changed]

    def terms(heads, hidden_CD, targets_C, *arrays):
        found = logprobs.of_targets(heads[0], hidden_CD, targets_C)
        of_role = dict(zip(roles, arrays, strict=False))
        in_loss = of_role | dict(zip(changed, arrays[first:], strict=True))
        sums = {token_sums.LOSS: jnp.zeros(())}
        if "unlearn" in of_role:
            unlearn_C, term = of_role["unlearn"], jnp.zeros(())
            weighted = term
            if of_sequences:
                weighted = term = (arrays[len(roles)] * found.logp_BT).sum()
            elif isinstance(method, TokenMethod):
                ends = arrays[len(roles) : first]
                if isinstance(method, TargetMethod):
                    of = (heads[0], hidden_CD, targets_C, found, *ends)
                    values_C = method.of_chunk(*of)
                else:
                    values_C = method.unlearn(found)
                term = (unlearn_C * values_C).sum()
                weighted = (in_loss["unlearn"] * values_C).sum()
            sums |= {
                token_sums.LOSS: alpha * weighted,
                "unlearn_loss": term,
                "unlearn_ce": -(unlearn_C * found.logp_BT).sum(),
                "unlearn_margin": (unlearn_C * found.margin_BT).sum(),
            }
        for role, weight in learned.items():
            sums[f"{role}_ce"] = -(of_role[role] * found.logp_BT).sum()
            sums[token_sums.LOSS] -= weight * (in_loss[role] * found.logp_BT).sum()
        return sums

    active_BT = functools.reduce(jnp.logical_or, active)
    return token_sums.Part(terms, states, others, active_BT)


def row_factor(batch: Batch) -> jax.Array:
    """Each row's factor in the loss, [B, 1]."""
    if batch.row_factor_B is None:
        return jnp.ones((len(batch), 1))
    return batch.row_factor_B[:, None]
