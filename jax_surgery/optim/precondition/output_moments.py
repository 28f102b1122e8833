# SPDX-License-Identifier: Apache-2.0
"""Second moments of the gradients of the moving matrices' outputs, over some text.

With y = x W and g the gradient of log p(t) with respect to y, where the token t is drawn
from the model's own prediction, E[g g^T] is the output factor of the Fisher information
of W (Martens and Grosse 2015, arXiv 1503.05671, section 2): which changes of y change
what the model says. Its input factor is E[x x^T] (`moments`). Tokens are drawn, and not
those of the text: what the text says is what the model finds likely already where it has
written it, and its gradient there says little.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.models import (
    decoder,
    layout,
    logprobs,
    output_head,
    sharding,
    token_sums,
)
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import shifted
from jax_surgery.models.trainable import BLOCK_OF, Trainable
from jax_surgery.optim.precondition.moments import Moments


def _drawn_logp(heads, hidden_CD, number_C, weight_C, seed_C) -> dict[str, jax.Array]:
    """Sum of the log p of one token drawn at each position of a chunk.

    Args:
      number_C: of each position, which its draw depends on.
    """
    logits_CV = logprobs.logits(hidden_CD, heads[0])
    key_of = lambda seed, number: jax.random.fold_in(jax.random.key(seed), number)
    draw = lambda seed, number, logits_V: jax.random.categorical(
        key_of(seed, number), logits_V
    )
    drawn_C = jax.vmap(draw)(seed_C, number_C, jax.lax.stop_gradient(logits_CV))
    logp_CV = jax.nn.log_softmax(logits_CV)
    logp_C = jnp.take_along_axis(logp_CV, drawn_C[:, None], axis=-1)[:, 0]
    return {token_sums.LOSS: (weight_C * logp_C).sum()}


@functools.partial(jax.jit, static_argnums=(1, 3, 4), donate_argnums=6)
def add(
    params: Any,
    config: ModelConfig,
    batch: Batch,
    compute: decoder.Compute,
    trainable: Trainable,
    seed: jax.Array,
    moments: Moments,
) -> Moments:
    """The moments with those of one more batch; `moments` are donated.

    Args:
      seed: uint32; of the tokens that are drawn, another for each batch.
    """
    active_BT = shifted(batch.weights_BT) > 0
    number_BT = jnp.arange(active_BT.size, dtype=jnp.uint32).reshape(active_BT.shape)
    seed_BT = jnp.full_like(number_BT, seed)
    head_SDV = output_head.copies(params, config, compute)

    def drawn(sums: Moments) -> jax.Array:
        layers = jax.tree.map(lambda leaf: leaf, params["layers"])  # dicts of its own
        for name, moment in sums.items():
            layers[BLOCK_OF[name]][name][decoder.MOMENT] = moment
        hidden_BTD = decoder.forward_packed(
            params | {"layers": layers},
            config,
            batch,
            compute=compute,
            first_trained_layer=trainable.first_layer,
        )
        others = [number_BT, active_BT.astype(jnp.float32), seed_BT]
        part = token_sums.Part(_drawn_logp, hidden_BTD, others, active_BT)
        found = token_sums.token_sums([part], head_SDV, tied=config.tie_embeddings)
        return found[token_sums.LOSS]

    empty = _zeros(config, trainable.matrices, config.num_layers)
    new = jax.grad(drawn)(empty)
    first = trainable.first_layer
    return sharding.constrain(
        {name: total + new[name][first:] for name, total in moments.items()}
    )


def _zeros(config: ModelConfig, matrices: Iterable[str], layers: int) -> Moments:
    widths = layout.outputs(config, matrices)
    return sharding.constrain(
        {name: jnp.zeros((layers, d, d)) for name, d in widths.items()}
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def zero_moments(config: ModelConfig, trainable: Trainable) -> Moments:
    """No text read yet: zeros [layers, outputs, outputs] of each moving matrix."""
    layers = config.num_layers - trainable.first_layer
    return _zeros(config, trainable.matrices, layers)


def second_moments(
    params: Any,
    config: ModelConfig,
    batches: Iterable[Batch],
    compute: decoder.Compute,
    trainable: Trainable,
    seed: int,
) -> Moments:
    """Sums of g g^T over all positions of the batches whose next token is learned.

    They are of the layers from `trainable.first_layer` on, and of its matrices.

    Args:
      seed: of the tokens that are drawn.
    """
    moments = zero_moments(config, trainable)
    for number, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.key(seed), number)
        drawn = jax.random.bits(key, dtype=jnp.uint32)
        of = (params, config, batch, compute, trainable, drawn)
        moments = add(*of, moments)
    return moments
