# SPDX-License-Identifier: Apache-2.0
"""A few plain steps of an optimizer on text, on every parameter or on low-rank deltas.

What attacks and the hardening of a removal share: no loop, no checkpoints, no roles.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.models import decoder, logprobs, output_head, sharding, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import shifted
from jax_surgery.optim import lora
from jax_surgery.optim.lora import LowRank
from jax_surgery.parallel import mesh as meshes


def text_batch(
    documents: Sequence[Document], context: int, rows: int
) -> tuple[Batch, int]:
    """Documents as one batch of `rows` rows on the devices.

    Documents that do not fit are left out; rows that are not needed have no weight.

    Args:
      documents: at least one.
      context: tokens a row.
      rows: of the batch; a multiple of what `mesh.round_rows` gives.

    Returns:
      (packed rows [rows, context], whose weights are equal for all learned tokens and
      sum to 1; how many tokens of text they hold).
    """
    packed = Packer(documents, context, "tokens").pack()
    taken = packed.select(np.arange(rows) % len(packed))
    used = np.where(np.arange(rows) < len(packed), 1.0, 0.0)[:, None]
    weights_BT = used * taken.weights_BT
    weights_BT = (weights_BT / weights_BT.sum()).astype(np.float32)
    here = meshes.rows_here(rows)
    batch = taken.select(here).replace(weights_BT=weights_BT[here])
    return batch.place(rows), packed.select(slice(rows)).real_tokens


def cross_entropy(
    params: Any, config: ModelConfig, batch: Batch, compute: decoder.Compute
) -> jax.Array:
    """The sum of `weights_BT` x -log p over a batch's tokens, nats."""
    hidden_BTD = decoder.forward_packed(params, config, batch, compute=compute)
    targets_BT, weights_BT = shifted(batch.tokens_BT), shifted(batch.weights_BT)

    def terms(heads, hidden_CD, targets_C, weights_C):
        logp_C = logprobs.of_targets(heads[0], hidden_CD, targets_C).logp_BT
        return {token_sums.LOSS: -(weights_C * logp_C).sum()}

    part = token_sums.Part(terms, hidden_BTD, [targets_BT, weights_BT], weights_BT != 0)
    head_SDV = output_head.copies(params, config, compute)
    sums = token_sums.token_sums([part], head_SDV, tied=config.tie_embeddings)
    return sums[token_sums.LOSS]


def init_adam(params: Any) -> Any:
    """The state of `adam_step` before the first step."""
    return optax.adam(1.0).init(params)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def adam_step(
    config: ModelConfig,
    compute: decoder.Compute,
    rate: float,
    params: Any,
    opt_state: Any,
    batch: Batch,
) -> tuple[Any, Any]:
    """One step of Adam on every parameter, of the batch's `cross_entropy`.

    Args:
      rate: the learning rate.
      params, opt_state: see `init_adam`; donated.

    Returns:
      (parameters, state) after the step.
    """
    gradient = jax.grad(cross_entropy)(params, config, batch, compute)
    updates, opt_state = optax.adam(rate).update(gradient, opt_state)
    return sharding.constrain((optax.apply_updates(params, updates), opt_state))


# Directions of optimizers as they are used by default; the step is the rate times that.
DIRECTIONS = {
    "adam": optax.scale_by_adam,
    "lion": optax.scale_by_lion,
    "sgd": functools.partial(optax.trace, decay=0.9),
}


def init(optimizer: str, moving: Any) -> Any:
    """The state of `step` before the first step.

    Args:
      optimizer: in `DIRECTIONS`.
      moving: see `step`.
    """
    return DIRECTIONS[optimizer]().init(moving)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=(5, 6))
def step(
    config: ModelConfig,
    compute: decoder.Compute,
    optimizer: str,
    low_rank: LowRank,
    base: Any,
    moving: Any,
    opt_state: Any,
    batch: Batch,
    rate: float,
) -> tuple[Any, Any]:
    """One step on the batch's `cross_entropy`; rates share a program.

    Args:
      optimizer: in `DIRECTIONS`.
      low_rank: the deltas that move; of rank 0 for every parameter.
      base: parameters that deltas are added to; None without.
      moving: parameters, or the deltas' factors; donated, as is `opt_state`.
      rate: the learning rate.

    Returns:
      (what moves, state) after the step.
    """

    def loss(moving):
        params = lora.attach(base, moving, low_rank) if low_rank.rank else moving
        return cross_entropy(params, config, batch, compute)

    direction, opt_state = DIRECTIONS[optimizer]().update(
        jax.grad(loss)(moving), opt_state
    )
    updates = jax.tree.map(lambda leaf: -rate * leaf, direction)
    return sharding.constrain((optax.apply_updates(moving, updates), opt_state))
