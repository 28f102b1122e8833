# SPDX-License-Identifier: Apache-2.0
"""The terms that all methods share: CE on what is learned, KL on what is retained.

Each returns the sums of one chunk of tokens, whose weights are already divided by the
global batch's denominators; `token_sums` adds up the chunks.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jax_surgery.methods.objective import Objective
from jax_surgery.models import logprobs, token_sums

Sums = dict[str, jax.Array]


def learned_terms(
    alpha: float,
    unlearn: Callable[..., jax.Array],
    learned: Mapping[str, float],
    heads: Any,
    hidden_CD: jax.Array,
    targets_C: jax.Array,
    weights: Mapping[str, jax.Array],
    *slope_C: jax.Array,
) -> Sums:
    """Sums of a chunk of tokens that are unlearned or learned.

    Args:
      alpha: weight of the unlearn term.
      unlearn: (`TokenLogprobs`, weights [C], *slope_C) -> the unlearn term's sum.
      learned: roles whose CE is part of the loss, and its weight.
      heads: the model's output head alone.
      hidden_CD, targets_C: final hidden states, and the tokens they are asked about.
      weights: [C] of each role.
      slope_C: see `sequence.slopes`.
    """
    (head_DV,) = heads
    found = logprobs.of_targets(head_DV, hidden_CD, targets_C)
    unlearn_C = weights["unlearn"]
    term = unlearn(found, unlearn_C, *slope_C)
    loss, sums = alpha * term, {}
    for role, weight in learned.items():
        ce = -(weights[role] * found.logp_BT).sum()
        loss += weight * ce
        sums[f"{role}_ce"] = ce
    return sums | {
        token_sums.LOSS: loss,
        "unlearn_loss": term,
        "unlearn_ce": -(unlearn_C * found.logp_BT).sum(),
        "unlearn_margin": (unlearn_C * found.margin_BT).sum(),
    }


def retain_terms(
    objective: Objective, heads: Any, hidden_CD, reference_CD, weights_C
) -> Sums:
    """Sums of a chunk of positions that are retained: KL in nats per position."""
    direction = objective.kl_direction
    kl_C = logprobs.divergence(heads, hidden_CD, reference_CD, direction=direction)
    kl = (weights_C * kl_C).sum()
    return {token_sums.LOSS: objective.gamma * kl, "retain_kl": kl}
