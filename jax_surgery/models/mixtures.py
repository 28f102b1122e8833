# SPDX-License-Identifier: Apache-2.0
"""What a mixture of predictions says of each token, and how far a model is from it.

The mixture is the mean of the probabilities that several hidden states give. It is made
in chunks of tokens, as in `logprobs`, and only where it is asked for: the logits of all
tokens never exist at once. Letters of shapes: B rows, T tokens, C tokens of a chunk, M
members, K drawn tokens, D model width, V vocabulary.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models import logprobs
from jax_surgery.models.output_head import Head
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import partition, scopes

Values = jax.Array | np.ndarray


class MixtureValues(NamedTuple):
    """Of each target token y, float32 [B, T]; q is the mixture and p the model.

    Attributes:
      divergence_BT: KL(q || p), nats.
      logq_BT: log q(y), nats.
      rest_BT: log of what q gives to all other tokens, nats.
      rival_BT: log q of the likeliest other token, nats.
      logp_BT: log p(y), nats.
      log_odds_BT: log-odds of y under p, nats.
      drawn_BTK: int32; other tokens of the pool, drawn from q without replacement.
      drawn_logq_BTK: log q of those, nats.
    """

    divergence_BT: Values
    logq_BT: Values
    rest_BT: Values
    rival_BT: Values
    logp_BT: Values
    log_odds_BT: Values
    drawn_BTK: Values
    drawn_logq_BTK: Values


DRAWN = 8  # tokens that are drawn for each


def of_chunk(head_DV: Head, pool_P, hidden_CMD, targets_C, seeds_C) -> MixtureValues:
    """The values of a chunk, all of its logits at once.

    Args:
      head_DV: the output head, [D, V].
      pool_P: int32; tokens that may be drawn, more than `DRAWN`.
      hidden_CMD: final hidden states: first the model's, then those of the mixture.
      targets_C: the token that each position is asked about.
      seeds_C: uint32; of what is drawn.
    """
    logits_CMV = logprobs.logits(hidden_CMD, head_DV)
    logp_CMV = jax.nn.log_softmax(logits_CMV)
    model_CV = logp_CMV[:, 0]
    members = logp_CMV.shape[1] - 1
    mixed_CV = jax.nn.logsumexp(logp_CMV[:, 1:], axis=1) - math.log(members)
    is_target = jnp.arange(model_CV.shape[-1]) == targets_C[:, None]
    without = lambda values_CV: jnp.where(is_target, -jnp.inf, values_CV)
    at_target = lambda values_CV: jnp.where(is_target, values_CV, 0.0).sum(-1)
    logp_C, others_CV = at_target(model_CV), without(mixed_CV)
    # The largest of log q and Gumbel noise are drawn from q without replacement.
    noise = lambda seed: jax.random.gumbel(jax.random.key(seed), pool_P.shape)
    of_pool_CP = others_CV[:, pool_P] + jax.vmap(noise)(seeds_C)
    drawn_CK = pool_P[jax.lax.top_k(of_pool_CP, DRAWN)[1]]
    return MixtureValues(
        (jnp.exp(mixed_CV) * (mixed_CV - model_CV)).sum(-1),
        at_target(mixed_CV),
        jax.nn.logsumexp(others_CV, axis=-1),
        others_CV.max(-1),
        logp_C,
        logp_C - jax.nn.logsumexp(without(model_CV), axis=-1),
        drawn_CK,
        jnp.take_along_axis(mixed_CV, drawn_CK, axis=-1),
    )


def of_tokens(
    hidden_BTMD: jax.Array,
    head_SDV: Head,
    targets_BT: jax.Array,
    active_BT: jax.Array,
    seeds_BT: jax.Array,
    pool_P: jax.Array,
    *,
    chunk: int | None = None,
) -> MixtureValues:
    """The values of active tokens, 0 elsewhere; nothing has a gradient.

    Args:
      hidden_BTMD: final hidden states: first the model's, then those of the mixture.
      head_SDV: output head, a copy for each device (`output_head.copies`).
      targets_BT: the token that each position is asked about.
      active_BT: bool; where False nothing is computed.
      seeds_BT: uint32; of what is drawn.
      pool_P: int32; tokens that may be drawn.
      chunk: tokens in a chunk; None chooses from shapes.
    """
    platform = meshes.platform()
    words = head_SDV.kernel.shape[2] // meshes.axis_size("tp")

    def of_device(head_1DV, hidden_BTMD, targets_BT, active_BT, seeds_BT):
        count, members = active_BT.size, hidden_BTMD.shape[2]
        size = chunk or logprobs.choose_chunk(count, members * words, platform)
        head_DV = head_1DV.with_kernel(lambda kernel: kernel[0])
        hidden = hidden_BTMD.reshape(count, *hidden_BTMD.shape[2:])
        # Active tokens first; behind them places that do not exist.
        order = jnp.argsort(~active_BT.ravel(), stable=True)
        active = jnp.count_nonzero(active_BT)
        order = jnp.where(jnp.arange(count) < active, order, count)
        order = jnp.pad(order, (0, -count % size), constant_values=count)

        def add(i, found):
            place_C = jax.lax.dynamic_slice_in_dim(order, i * size, size)
            own_C = jnp.minimum(place_C, count - 1)
            of_own = (targets_BT.ravel()[own_C], seeds_BT.ravel()[own_C])
            values = of_chunk(head_DV, pool_P, hidden[own_C], *of_own)
            put = lambda old, new: old.at[place_C].set(new, mode="drop")
            return jax.tree.map(put, found, values)

        one = (hidden[:1], targets_BT.ravel()[:1], seeds_BT.ravel()[:1])
        like = jax.eval_shape(of_chunk, head_DV, pool_P, *one)
        empty = jax.tree.map(lambda a: jnp.zeros((count, *a.shape[1:]), a.dtype), like)
        with scopes.at_most(len(order) // size):
            found = jax.lax.fori_loop(0, (active + size - 1) // size, add, empty)
        shape = active_BT.shape
        return jax.tree.map(lambda flat: flat.reshape(*shape, *flat.shape[1:]), found)

    arrays = (hidden_BTMD, targets_BT, active_BT, seeds_BT)
    return partition.over_rows(of_device)(head_SDV, *arrays)
