# SPDX-License-Identifier: Apache-2.0
"""A method's loss on a packed batch: one forward, one backward.

Rows of all roles are one packed batch. Each term is a (sum, denominator) pair whose
denominator comes from the batch's weights alone, so that splitting a batch (gradient
accumulation, devices) changes nothing. CE is in nats per token, KL in nats per position.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods import hidden, kl, reference, sequence
from jax_surgery.methods.base import HiddenMethod, Method, TokenMethod
from jax_surgery.methods.objective import Objective
from jax_surgery.models import decoder, output_head, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import shifted
from jax_surgery.models.trainable import ALL, Trainable
from jax_surgery.train import loop
from jax_surgery.train.step import LossFn, Metrics

Params = Any


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a training step minimises (see `train.step.Loss`).

    Attributes:
      objective: weights of the three terms, and the retain term.
      method: of the unlearn term.
    """

    objective: Objective
    method: Method

    def check(self, rows: RoleRows, config: ModelConfig, trainable: Trainable) -> None:
        """Raises ValueError where the method cannot work on such rows or such a model."""
        needs, name = self.method.needs, type(self.method).__name__.lower()
        for role in needs.roles:
            if role not in rows.present:
                raise ValueError(
                    f"config.method={name} needs text of the role {role}; give "
                    f"config.data.{role} sources and config.data.rows_{role} 1 or more."
                )
        if needs.layer is None:
            return
        if needs.layer >= config.num_layers:
            raise ValueError(
                f"config.method={name}: layer={needs.layer}, but the model has "
                f"{config.num_layers} layers; use 0 to {config.num_layers - 1}."
            )
        if trainable.first_layer > needs.layer:
            raise ValueError(
                f"config.method={name}: layer={needs.layer} lies below the first layer "
                f"that moves, {trainable.first_layer}, so nothing would change it; lower "
                "optimizer.first_layer or raise the method's layer."
            )

    def readings(self, rows: RoleRows) -> dict[str, reference.Reading]:
        """What is read of the frozen model, by role that has rows."""
        needs = self.method.needs
        found = {
            role: reference.Reading(kind, needs.layer)
            for role, kind in needs.reference.items()
        }
        if self.objective.retain == "kl" and needs.layer is None:
            found["retain"] = reference.Reading("hidden", None)
        return {role: found[role] for role in rows.present if role in found}

    def advice(self, rows: RoleRows) -> str:
        """What to change where a run on such rows diverges."""
        if not rows.unlearn:
            return loop.LOWER_RATE
        bound = f", {self.method.bound}" if self.method.bound else ""
        return f"{loop.LOWER_RATE}{bound} or lower config.objective.alpha"

    def attach_reference(
        self,
        batch: Batch,
        reference_params: Params,
        config: ModelConfig,
        rows: RoleRows,
        compute: decoder.Compute,
    ) -> Batch:
        """Adds what the loss reads of the frozen model; see `reference.attach`."""
        readings = self.readings(rows)
        return reference.attach(
            batch, readings, reference_params, config, rows, compute
        )

    def token_weights(self, batch: Batch, rows: RoleRows, role: str) -> jax.Array:
        """Weight of the token that each position predicts, 0 on rows of other roles."""
        weights_BT = rows.only(shifted(batch.weights_BT), role)
        if role == "unlearn" and self.method.needs.pairs:
            weights_BT *= sequence.is_forget(batch.segment_ids_BT)
        return weights_BT

    def denominators(self, batch: Batch, rows: RoleRows) -> Metrics:
        """Each term's denominator, of a whole batch."""
        found = {
            role: rows.take(self.token_weights(batch, rows, role), role).sum()
            for role in ("unlearn", "update")
        }
        retain_BT = batch.position_weights_BT
        if self._retains_ce:
            retain_BT = shifted(batch.weights_BT)
        found["retain"] = rows.take(retain_BT, "retain").sum()
        if not isinstance(self.method, TokenMethod | HiddenMethod):
            unlearn = batch.take(rows, "unlearn")
            found["sequences"] = sequence.count(self.method, unlearn)
        return found

    @property
    def _retains_ce(self) -> bool:
        return self.objective.retain == "nll" and self.method.needs.layer is None

    @property
    def _of_sequences(self) -> bool:
        return not isinstance(self.method, TokenMethod | HiddenMethod)

    def make(
        self,
        config: ModelConfig,
        rows: RoleRows,
        compute: decoder.Compute = decoder.DEFAULT_COMPUTE,
        trainable: Trainable = ALL,
    ) -> LossFn:
        """The pure `loss_fn(params, batch) -> (loss, metrics)`.

        The batch has `weights_BT`, `position_weights_BT` and what `attach_reference`
        adds; and, where it is a part, the `denominators` of the whole. Gradients of
        parameters that are not `trainable` are zero and not computed.

        Metrics, all scalars, of the roles that have rows: `loss`; `unlearn_loss`, the
        method's own term; `unlearn_ce`, `update_ce`, `retain_ce` or `retain_kl` (nats);
        `unlearn_margin` (nats, mean log-odds of the unlearn tokens); of methods of
        hidden states `unlearn_loss`, `update_ce` and `retain_loss`.
        """
        self.check(rows, config, trainable)
        of_rows = hidden.loss_of if self.method.needs.layer is not None else _loss_of

        def loss_fn(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
            params = trainable.freeze(params)
            total = batch.denominators or self.denominators(batch, rows)
            safe = jax.tree.map(lambda d: jnp.maximum(d, 1e-9), total)
            found = of_rows(self, params, config, batch, safe, rows, compute, trainable)
            present = rows.present
            metrics = {
                name: value
                for name, value in found.items()
                if name == token_sums.LOSS or name.split("_")[0] in present
            }
            return metrics[token_sums.LOSS], metrics

        return loss_fn

    def learned_part(
        self, rows: RoleRows, batch: Batch, states: jax.Array, safe: Metrics, slopes=()
    ) -> token_sums.Part:
        """The tokens that are unlearned or learned, and their terms.

        Args:
          states: final hidden states, [B, T, D].
          safe: denominators, not 0.
          slopes: [B, T] of a sequence's term (see `sequence.slopes`), or nothing.
        """
        objective = self.objective
        learned = {"update": objective.beta}
        if self._retains_ce:
            learned["retain"] = objective.gamma
        roles = ("unlearn", *learned)
        weights = [self.token_weights(batch, rows, r) / safe[r] for r in roles]
        active_BT = weights[0] != 0
        for weights_BT in weights[1:]:
            active_BT |= weights_BT != 0
        if slopes:
            active_BT |= slopes[0] != 0

        def unlearn(found, weights_C, *slope_C):
            if slope_C:
                return (slope_C[0] * found.logp_BT).sum()
            if isinstance(self.method, TokenMethod):
                return (weights_C * self.method.unlearn(found)).sum()
            return jnp.zeros(())

        def terms(heads, hidden_CD, targets_C, *arrays):
            of_role = dict(zip(roles, arrays, strict=False))
            return kl.learned_terms(
                objective.alpha,
                unlearn,
                learned,
                heads,
                hidden_CD,
                targets_C,
                of_role,
                *arrays[len(roles) :],
            )

        others = [shifted(batch.tokens_BT), *weights, *slopes]
        return token_sums.Part(terms, states, others, active_BT)


def _loss_of(loss, params, config, batch, safe, rows, compute, trainable) -> Metrics:
    """Sums of all terms of methods that read log-probabilities."""
    states = decoder.forward_packed(
        params,
        config,
        batch,
        compute=compute,
        first_trained_layer=trainable.first_layer,
    )
    head_SDV, states = output_head.copies_for(
        params, states, compute, moves=not trainable.matrices
    )
    parts, value, slopes = [], None, ()
    if loss._of_sequences and rows.unlearn:
        unlearn = batch.text.replace(weights_BT=batch.weights_BT).take(rows, "unlearn")
        value, slope_UT = sequence.slopes(
            loss.method,
            jax.lax.stop_gradient(rows.take(states, "unlearn")),
            jax.lax.stop_gradient(head_SDV),
            unlearn,
            batch.reference_logp_UT,
            safe["sequences"],
        )
        slopes = (rows.put(slope_UT, "unlearn"),)
    if rows.unlearn or rows.update or loss._retains_ce:
        parts.append(loss.learned_part(rows, batch, states, safe, slopes))
    if rows.retain and not loss._retains_ce:
        weights_RT = rows.take(batch.position_weights_BT, "retain") / safe["retain"]
        parts.append(
            token_sums.Part(
                lambda *chunk: kl.retain_terms(loss.objective, *chunk),
                rows.take(states, "retain"),
                [batch.reference_hidden_RTD, weights_RT],
                weights_RT != 0,
                [batch.reference_head_SDV],
            )
        )
    found = token_sums.token_sums(parts, head_SDV, tied=config.tie_embeddings)
    if value is None:
        return found
    # The sum of slopes times log p has the term's gradient; its value is the term's.
    linear = jax.lax.stop_gradient(found["unlearn_loss"])
    total = found[token_sums.LOSS] + loss.objective.alpha * (value - linear)
    return found | {token_sums.LOSS: total, "unlearn_loss": value}
