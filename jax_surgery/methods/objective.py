# SPDX-License-Identifier: Apache-2.0
"""The objective of LLM Surgery (arXiv 2409.13054, Eq. 1), as a pure function.

    L(theta) = - alpha * CE(theta; unlearn)             ascent on what must go
               + beta  * CE(theta; update)              descent on what is new
               + gamma * KL(p_theta || p_pre; retain)   stay where the model was

One packed batch, one forward: rows are [unlearn; update; retain], for every device. Each
term is a
(sum, denominator) pair whose denominator comes from the batch's weights alone, so
that splitting a batch (gradient accumulation, devices) changes nothing. CE is in
nats per token, KL in nats per position.

The ascent may be bounded (`Objective.ascent`): without a bound it drives the model
to *avoid* the unlearned answer, which is a leak and costs what must be kept.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.models import llama, logprobs, output_head, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import ALL, Trainable

Params = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[[Params, Batch], tuple[jax.Array, Metrics]]

ASCENTS = ("none", "cap", "margin", "level")
KL_DIRECTIONS = ("model_to_reference", "reference_to_model")


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weights and choices of the three terms.

    Attributes:
      alpha, beta, gamma: weights of the unlearn, update and retain terms.
      kl_direction: "model_to_reference" is KL(p_theta || p_pre), the paper's;
        "reference_to_model" is KL(p_pre || p_theta).
      ascent: bound of the ascent. "none": -CE, as in the paper. "cap": a token
        stops counting once its -log p exceeds `cap`. "margin": minimise the
        margin z_y - logsumexp_{j != y} z_j (the log-odds of the token) where it
        exceeds `margin`; unlike -CE its gradient does not vanish at tokens the
        model is sure of, which are the ones to forget. "level": minimise
        Huber's function of (margin - `margin`), from both sides: what fell below
        rises again, so that a token ends as likely as other wrong ones and not less.
      cap: nats per token.
      margin: nats (log-odds), for "margin" and "level"; where an ignorant model's
        wrong candidates lie. -log(K - 1) if it finds K candidates alike, lower if
        it is sure of one (that is what forgetting by gradients leaves).
      softness: nats, for "level": within this distance the pull falls with the
        distance, beyond it is 1.
    """

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    kl_direction: Literal["model_to_reference", "reference_to_model"] = (
        "model_to_reference"
    )
    ascent: Literal["none", "cap", "margin", "level"] = "none"
    cap: float = 5.5
    margin: float = -4.0
    softness: float = 8.0

    def __post_init__(self):
        for name, allowed in (("ascent", ASCENTS), ("kl_direction", KL_DIRECTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)!r}; choose one of "
                    f"{', '.join(allowed)}."
                )
        for name in ("alpha", "beta", "gamma"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)} is negative; weights are "
                    "0 or more (the unlearn term's sign is part of the objective)."
                )
        if self.cap <= 0:
            raise ValueError(
                f"objective.cap={self.cap} nats must be positive: -log p of a known "
                "token is near 0 and rises as it is forgotten."
            )
        if self.softness <= 0:
            raise ValueError(
                f"objective.softness={self.softness} nats must be positive; a small "
                "one pulls every token alike."
            )


def shifted(array_BT: jax.Array) -> jax.Array:
    """Entry t + 1 at position t, 0 at the end: what position t predicts."""
    return jnp.pad(array_BT[:, 1:], ((0, 0), (0, 1)))


def denominators(batch: Batch, rows: RoleRows) -> Metrics:
    """Each term's denominator: the sum of the batch's weights of its role."""
    weights = shifted(batch.weights_BT)
    return {
        "unlearn": rows.take(weights, "unlearn").sum(),
        "update": rows.take(weights, "update").sum(),
        "retain": rows.take(batch.position_weights_BT, "retain").sum(),
    }


def _unlearn_term(logp: logprobs.TokenLogprobs, objective: Objective) -> jax.Array:
    """The bounded ascent term of each token: falls as it is forgotten."""
    if objective.ascent == "margin":
        open_BT = jax.lax.stop_gradient(logp.margin_BT > objective.margin)
        term_BT = logp.margin_BT * open_BT
    elif objective.ascent == "level":
        distance_BT = logp.margin_BT - objective.margin
        term_BT = optax.losses.huber_loss(distance_BT, delta=objective.softness)
        term_BT /= objective.softness
    elif objective.ascent == "cap":
        term_BT = jnp.maximum(logp.logp_BT, -objective.cap)
    else:
        term_BT = logp.logp_BT
    return term_BT


def _learned_terms(
    objective: Objective, heads, hidden_CD, targets_C, unlearn_C, update_C
) -> Metrics:
    """Sums of a chunk of tokens that are unlearned or learned, by their weights."""
    logp = logprobs.of_targets(*heads, hidden_CD, targets_C)
    ascent = (unlearn_C * _unlearn_term(logp, objective)).sum()
    update_ce = -(update_C * logp.logp_BT).sum()
    return {
        token_sums.LOSS: objective.alpha * ascent + objective.beta * update_ce,
        "unlearn_ce": -(unlearn_C * logp.logp_BT).sum(),
        "unlearn_margin": (unlearn_C * logp.margin_BT).sum(),
        "update_ce": update_ce,
    }


def _retain_terms(
    objective: Objective, heads, hidden_CD, reference_CD, weights_C
) -> Metrics:
    """Sums of a chunk of positions that are kept."""
    direction = objective.kl_direction
    kl_C = logprobs.divergence(heads, hidden_CD, reference_CD, direction=direction)
    kl = (weights_C * kl_C).sum()
    return {token_sums.LOSS: objective.gamma * kl, "retain_kl": kl}


def make_loss_fn(
    config: ModelConfig,
    objective: Objective,
    rows: RoleRows,
    compute: llama.Compute = llama.DEFAULT_COMPUTE,
    trainable: Trainable = ALL,
) -> LossFn:
    """The pure `loss_fn(params, batch) -> (loss, metrics)`.

    The batch holds, for B = `rows.total` rows of T tokens (in `rows`' order): `tokens_BT`,
    `segment_ids_BT`, `positions_BT` (int32), `weights_BT` (0 where a token is not
    learned), `position_weights_BT` (weight of each position in the KL),
    `reference_hidden_RTD` and `reference_head_SDV` (the frozen model's final hidden
    states on the R retain rows, and its output head), and may hold
    `denominators` (see `denominators`; of the whole batch, when this is a part).
    Gradients of parameters that are not `trainable` are zero and not computed.

    Metrics, all scalars: `loss`, `unlearn_ce`, `update_ce`, `retain_kl` (nats), and
    `unlearn_margin` (nats, mean log-odds of the unlearn tokens).
    """

    def loss_fn(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
        params = trainable.freeze(params)
        hidden = llama.forward_packed(
            params,
            config,
            batch,
            compute=compute,
            first_trained_layer=trainable.first_layer,
        )
        head_SDV, hidden = output_head.copies_for(params, hidden, compute)
        total = batch.denominators or denominators(batch, rows)
        safe = jax.tree.map(lambda d: jnp.maximum(d, 1e-9), total)
        parts = []
        if rows.unlearn or rows.update:
            weights_BT = shifted(batch.weights_BT)
            weights = [
                rows.only(weights_BT, role) / safe[role]
                for role in ("unlearn", "update")
            ]
            parts.append(
                token_sums.Part(
                    functools.partial(_learned_terms, objective),
                    hidden,
                    [shifted(batch.tokens_BT), *weights],
                    (weights[0] != 0) | (weights[1] != 0),
                )
            )
        if rows.retain:
            weights_RT = rows.take(batch.position_weights_BT, "retain")
            weights_RT /= safe["retain"]
            parts.append(
                token_sums.Part(
                    functools.partial(_retain_terms, objective),
                    rows.take(hidden, "retain"),
                    [batch.reference_hidden_RTD, weights_RT],
                    weights_RT != 0,
                    [batch.reference_head_SDV],
                )
            )
        found = token_sums.token_sums(parts, head_SDV, tied=config.tie_embeddings)
        absent = {role for role in ROLES if not getattr(rows, role)}
        metrics = {k: v for k, v in found.items() if k.split("_")[0] not in absent}
        return metrics[token_sums.LOSS], metrics

    return loss_fn
