# SPDX-License-Identifier: Apache-2.0
"""Identification: the task matrix, from plain gradients in the model's own basis.

A gradient of a matrix is a sum of outer products of the task's inputs with what they
should change, so its columns stay in the span of those inputs. Adam's element-wise
scaling leaves that span; plain steps do not.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.models import decoder, logprobs, output_head, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import shifted
from jax_surgery.models.trainable import Matrices, Trainable


class TaskLoss(NamedTuple):
    """The value of a token that its weight changes.

    Attributes:
      kind: "margin", the log-odds z_y - logsumexp_{j != y} z_j of the token, as long as
        they have not reached its target log-odds; or "cross_entropy", log p at a
        `temperature`, without a limit.
      temperature: of the logits; 1 is saturated where the model is sure.
    """

    kind: Literal["margin", "cross_entropy"]
    temperature: float


def chance_odds(chance: float) -> float:
    """Log-odds of a token that is guessed right with probability `chance`, nats."""
    return math.log(chance / (1 - chance))


def pull(
    params: Any,
    config: ModelConfig,
    batch: Batch,
    loss: TaskLoss,
    compute: decoder.Compute,
    trainable: Trainable,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What a round minimises: the sum of token weight x value over a batch, nats.

    The value of a token is what `loss` says; for "margin" it is 0 beyond the target log-odds.

    Args:
      batch: packed rows with `token_weights_BT` and `target_log_odds_BT`.

    Returns:
      (the sum, {"pushed_down", "pushed_up": how many tokens still have a gradient}).
    """
    params = trainable.freeze(params)
    hidden = decoder.forward_packed(
        params,
        config,
        batch,
        compute=compute,
        first_trained_layer=trainable.first_layer,
    )
    targets_BT = shifted(batch.tokens_BT)
    weights_BT = shifted(batch.token_weights_BT)
    log_odds_BT = shifted(batch.target_log_odds_BT)
    temperature = 1.0 if loss.kind == "margin" else loss.temperature

    def terms(heads, hidden_CD, targets_C, weights_C, log_odds_C):
        found = logprobs.of_targets(heads[0], hidden_CD, targets_C, temperature)
        value_C, open_C = found.logp_BT, jnp.ones_like(weights_C, bool)
        if loss.kind == "margin":
            value_C = found.margin_BT
            open_C = jax.lax.stop_gradient(
                jnp.sign(weights_C) * (value_C - log_odds_C) > 0
            )
        return {
            token_sums.LOSS: (weights_C * value_C * open_C).sum(),
            "pushed_down": ((weights_C > 0) & open_C).sum().astype(jnp.float32),
            "pushed_up": ((weights_C < 0) & open_C).sum().astype(jnp.float32),
        }

    part = token_sums.Part(
        terms, hidden, [targets_BT, weights_BT, log_odds_BT], weights_BT != 0
    )
    head_SDV = output_head.copies(params, config, compute)
    sums = token_sums.token_sums([part], head_SDV, tied=config.tie_embeddings)
    return sums.pop(token_sums.LOSS), sums


def task_matrix(
    params: Any,
    config: ModelConfig,
    batch: Batch,
    loss: TaskLoss,
    compute: decoder.Compute,
    trainable: Trainable,
) -> tuple[Matrices, dict[str, jax.Array]]:
    """T of one round: the gradient of `pull`, [layers, inputs, outputs] each.

    W - s T lowers tokens of positive weight and raises those of negative weight. Also gives `pull`'s
    sums and the loss itself.
    """
    (value, sums), gradient = jax.value_and_grad(pull, has_aux=True)(
        params, config, batch, loss, compute, trainable
    )
    return trainable.take(gradient), sums | {"loss": value}


# Alone, outside of a round.
jitted_task_matrix = jax.jit(task_matrix, static_argnums=(1, 3, 4, 5))


def layer_share(order: str, layers: int, count: jax.Array, rounds: int) -> jax.Array:
    """Which layers' matrices move in a round, [layers] of 0 and 1.

    Args:
      order: "joint", all in every round; "cyclic", one after another, again and again;
        "first_to_last", each for its share of the rounds, then never again (the
        paper's).
      layers: that move at all.
      count: rounds taken.
      rounds: in all.

    Raises:
      ValueError: fewer rounds than layers where each has a share.
    """
    if order == "joint":
        return jnp.ones(layers)
    if order == "cyclic":
        return (jnp.arange(layers) == count % layers).astype(jnp.float32)
    if rounds < layers:
        raise ValueError(
            f"config.rounds.number={rounds}: order=first_to_last gives each of "
            f"{layers} layers its own rounds; use {layers} or more."
        )
    current = jnp.minimum(count // (rounds // layers), layers - 1)
    return (jnp.arange(layers) == current).astype(jnp.float32)
