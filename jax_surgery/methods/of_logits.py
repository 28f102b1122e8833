# SPDX-License-Identifier: Apache-2.0
"""The unlearn term of a method that reads all logits which predict a token."""

import jax

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.base import LogitMethod
from jax_surgery.models import logprobs, token_sums
from jax_surgery.models.documents import shifted
from jax_surgery.models.output_head import Head


def part(
    method: LogitMethod,
    alpha: float,
    rows: RoleRows,
    batch: Batch,
    states: jax.Array,
    own_BT: jax.Array,
    total: jax.Array,
    head_SDV: Head,
) -> token_sums.Part:
    """The term, and what is logged of the unlearn tokens.

    Args:
      alpha: weight of the term in the loss.
      batch, states: all rows, and their final hidden states [B, T, D].
      own_BT: weight of each token in what is logged.
      total: what the term's weighed sum is divided by, of the global batch.
      head_SDV: of the model, for its width.
    """
    unlearn = batch.take(rows, "unlearn")
    weights_UT = method.weights(unlearn) / total
    own_UT = rows.take(own_BT, "unlearn")
    targets_UT = method.targets(unlearn, head_SDV.kernel.shape[2])
    others = [targets_UT, shifted(unlearn.tokens_BT), weights_UT, own_UT]
    frozen = batch.reference_hidden_UTD
    if frozen is not None:
        others.append(frozen)

    def terms(heads, hidden_CD, targets_C, tokens_C, weights_C, own_C, *frozen_CD):
        logits_CV = logprobs.logits(hidden_CD, heads[0])
        frozen_CV = logprobs.logits(frozen_CD[0], heads[1]) if frozen_CD else None
        term = (weights_C * method.unlearn(logits_CV, targets_C, frozen_CV)).sum()
        found = logprobs.of_logits(jax.lax.stop_gradient(logits_CV), tokens_C)
        return {
            token_sums.LOSS: alpha * term,
            "unlearn_loss": term,
            "unlearn_ce": -(own_C * found.logp_BT).sum(),
            "unlearn_margin": (own_C * found.margin_BT).sum(),
        }

    return token_sums.Part(
        terms,
        rows.take(states, "unlearn"),
        others,
        (weights_UT != 0) | (own_UT != 0),
        [] if frozen is None else [batch.reference_head_SDV],
    )
