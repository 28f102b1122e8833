# SPDX-License-Identifier: Apache-2.0
"""A method's loss on a packed batch: one forward, one backward.

Rows of all roles are one packed batch. Each term is a (sum, denominator) pair whose
denominator comes from the batch's weights alone, so that splitting a batch (gradient
accumulation, devices) changes nothing. CE is in nats per token, KL in nats per position.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods import name_of, of_logits, of_tokens, reference, sequence
from jax_surgery.methods.ascent import Surgery
from jax_surgery.methods.base import (
    HiddenMethod,
    LogitMethod,
    Method,
    PairMethod,
    SequenceMethod,
    TokenMethod,
    WeighedMethod,
)
from jax_surgery.methods.inside import terms as terms_inside
from jax_surgery.methods.inside.settings import NOTHING, Inside
from jax_surgery.methods.objective import Objective
from jax_surgery.models import decoder, logprobs, output_head, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import position_weights, shifted
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
      inside: how far unlearning reaches inside the model.
    """

    objective: Objective
    method: Method
    inside: Inside = NOTHING

    def check(self, rows: RoleRows, config: ModelConfig, trainable: Trainable) -> None:
        """Raises ValueError where the method cannot work on such rows or such a model."""
        name, layer = name_of(self.method), self._layer
        for role in self.method.roles:
            if role not in rows.present:
                raise ValueError(
                    f"config.method={name} needs text of the role {role}; give "
                    f"config.data.{role} sources and config.data.rows_{role} 1 or more."
                )
        if self.inside.is_used and not isinstance(self.method, TokenMethod):
            raise ValueError(
                f"config.method={name} has no term of single tokens, of which "
                "config.inside takes more; use config.method=surgery, or "
                "config.inside.lens=0, silenced=0 and copies=0."
            )
        if layer is None:
            return
        if layer >= config.num_layers:
            raise ValueError(
                f"config.method={name}: layer={layer}, but the model has "
                f"{config.num_layers} layers; use 0 to {config.num_layers - 1}."
            )
        if trainable.first_layer > layer:
            raise ValueError(
                f"config.method={name}: layer={layer} lies below the first layer "
                f"that moves, {trainable.first_layer}, so nothing would change it; lower "
                "config.optimizer.first_layer or raise the method's layer."
            )

    @property
    def _layer(self) -> int | None:
        """The layer whose hidden states are read; None for the final ones."""
        return self.method.layer if isinstance(self.method, HiddenMethod) else None

    @property
    def _retains(self) -> str:
        """How text is retained: "kl", "nll", "none" or, by the method, "hidden" states."""
        own = self.method.retains or self.objective.retain
        return own if self._layer is None else "hidden"

    def without_unlearn(self) -> "Loss":
        """The loss of the other roles alone."""
        return dataclasses.replace(self, method=Surgery())

    def readings(self, rows: RoleRows) -> dict[str, reference.Reading]:
        """What is read of the frozen model, by role that has rows."""
        roles = {*self.method.reference}
        if self._retains == "kl":
            roles.add("retain")
        return {
            role: reference.Reading(
                role,
                self._layer,
                logits=role == "unlearn" and isinstance(self.method, LogitMethod),
            )
            for role in rows.present
            if role in roles
        }

    def advice(self, rows: RoleRows) -> str:
        """What to change where a run on such rows diverges."""
        if not rows.unlearn:
            return loop.LOWER_RATE
        bound = f", {self.method.bound}" if self.method.bound else ""
        return f"{loop.LOWER_RATE}{bound} or lower config.objective.alpha"

    def prepare(
        self,
        batch: Batch,
        reference_params: Params,
        config: ModelConfig,
        rows: RoleRows,
        compute: decoder.Compute = decoder.DEFAULT_COMPUTE,
        average: str = "sequences",
    ) -> Batch:
        """Adds what the loss reads of the frozen model, the weights of retained
        positions, and denominators; see `train.step.Loss`."""
        batch = reference.attach(
            batch, self.readings(rows), reference_params, config, rows, compute
        )
        logits = any(reading.logits for reading in self.readings(rows).values())
        if logits or (self._retains == "kl" and rows.retain):
            head_SDV = output_head.copies(reference_params, config, compute)
            batch = batch.replace(reference_head_SDV=head_SDV)
        if self.objective.retained_positions == "learned":
            weights_BT = shifted(batch.weights_BT)
        else:
            padded = self.objective.retained_positions == "padded"
            how = "tokens" if padded else average
            weights_BT = position_weights(batch.segment_ids_BT, how)
        batch = batch.replace(position_weights_BT=weights_BT)
        return batch.replace(denominators=self.denominators(batch, rows))

    def token_weights(self, batch: Batch, rows: RoleRows, role: str) -> jax.Array:
        """Weight of the token that each position predicts, 0 on rows of other roles."""
        weights_BT = rows.only(shifted(batch.weights_BT), role)
        if role == "unlearn" and isinstance(self.method, PairMethod):
            weights_BT *= sequence.is_forget(batch.segment_ids_BT)
        return weights_BT

    def denominators(self, batch: Batch, rows: RoleRows) -> Metrics:
        """Each term's denominator, of a whole batch."""
        found = {
            role: rows.take(self.token_weights(batch, rows, role), role).sum()
            for role in ("unlearn", "update")
        }
        retain_BT = batch.position_weights_BT
        if self._retains == "nll":
            retain_BT = shifted(batch.weights_BT)
        found["retain"] = rows.take(retain_BT, "retain").sum()
        if self.objective.retained_positions == "padded" and self._retains != "nll":
            found["retain"] = padded_places(batch.take(rows, "retain"))
        if isinstance(self.method, SequenceMethod | PairMethod):
            unlearn = batch.take(rows, "unlearn")
            found["sequences"] = sequence.count(self.method, unlearn)
        elif isinstance(self.method, WeighedMethod) and rows.unlearn:
            found["weighed"] = self.method.total(batch.take(rows, "unlearn"))
        return found

    def make(
        self,
        config: ModelConfig,
        rows: RoleRows,
        compute: decoder.Compute = decoder.DEFAULT_COMPUTE,
        trainable: Trainable = ALL,
    ) -> LossFn:
        """The pure `loss_fn(params, batch) -> (loss, metrics)`.

        The batch has `weights_BT`, and what `prepare` adds to it or to the whole that it
        is a part of; alone, it may lack denominators. Gradients of
        parameters that are not `trainable` are zero and not computed.

        Metrics, all scalars, of the roles that have rows: `loss`; `unlearn_loss`, the
        method's own term; `unlearn_ce`, `update_ce`, `retain_ce` or `retain_kl` (nats);
        `unlearn_margin` (nats, mean log-odds of the unlearn tokens); of methods of
        hidden states `unlearn_loss`, `update_ce` and `retain_loss`.
        """
        self.check(rows, config, trainable)
        method = self.method
        forward = functools.partial(
            decoder.forward_packed,
            compute=compute,
            first_trained_layer=trainable.first_layer,
        )

        def loss_fn(params: Params, batch: Batch) -> tuple[jax.Array, Metrics]:
            params = trainable.freeze(params)
            total = batch.denominators or self.denominators(batch, rows)
            safe = jax.tree.map(lambda d: jnp.maximum(d, 1e-9), total)
            found, layout = {token_sums.LOSS: jnp.zeros(())}, rows
            if isinstance(method, HiddenMethod):
                # The rows to update, which need every layer, are a pass of their own.
                steered = [
                    role for role in ("unlearn", "retain") if role in rows.present
                ]
                part, layers = batch.take(rows, *steered), method.layer + 1
                states = forward(params, config, part, num_layers=layers)
                layout = rows.only_of(*steered)
                found = self._of_hidden(method, layout, batch, rows, states, safe)
                batch, layout = batch.take(rows, "update"), rows.only_of("update")
            if layout.total:
                inside: list[jax.Array] = []
                if layout.unlearn and self.inside.is_used:
                    of = (params, config, batch, layout)
                    states, inside = terms_inside.states(*of, forward)
                else:
                    states = forward(params, config, batch)
                moves = not trainable.matrices
                head_SDV, states = output_head.copies_for(
                    params, config, states, compute, moves=moves
                )
                tied = config.tie_embeddings
                sums = self._of_logits(
                    layout, batch, states, inside, head_SDV, safe, tied
                )
                found[token_sums.LOSS] += sums.pop(token_sums.LOSS)
                found |= {
                    name: value
                    for name, value in sums.items()
                    if name.split("_")[0] in layout.present
                }
            return found[token_sums.LOSS], found

        return loss_fn

    def _of_hidden(
        self,
        method: HiddenMethod,
        layout: RoleRows,
        batch: Batch,
        rows: RoleRows,
        states: jax.Array,
        safe: Metrics,
    ) -> Metrics:
        """The terms of the hidden states of a layer; layers above it are not computed.

        Args:
          layout: of the rows that `states` are of.
          batch, rows: all rows, and how they lie.
        """
        found = {token_sums.LOSS: jnp.zeros(())}

        def add(role: str, weight: float, weights_RT: jax.Array, values_RT: jax.Array):
            in_loss_RT = weights_RT * rows.take(of_tokens.row_factor(batch), role)
            found[token_sums.LOSS] += weight * (in_loss_RT * values_RT).sum()
            found[f"{role}_loss"] = (weights_RT * values_RT).sum()

        if layout.unlearn:
            values_UT = method.unlearn(layout.take(states, "unlearn"))
            weights_UT = method.weights(batch.take(rows, "unlearn"))
            of_mean_UT = weights_UT / safe["weighed"]
            add("unlearn", self.objective.alpha, of_mean_UT, values_UT)
        if layout.retain:
            hidden_RTD = layout.take(states, "retain")
            values_RT = method.retain(hidden_RTD, batch.reference_hidden_RTD)
            weights_RT = rows.take(batch.position_weights_BT, "retain") / safe["retain"]
            add("retain", self.objective.gamma, weights_RT, values_RT)
        return found

    def _of_logits(
        self,
        rows: RoleRows,
        batch: Batch,
        states: jax.Array,
        inside: Sequence[jax.Array],
        head_SDV: output_head.Head,
        safe: Metrics,
        tied: bool,
    ) -> Metrics:
        """The terms of log-probabilities, from final hidden states [B, T, D].

        Args:
          inside: states of the unlearn rows inside the model, [U, T, D] each.
        """
        parts, value, slopes, alpha = [], None, (), self.objective.alpha
        if rows.unlearn and isinstance(self.method, SequenceMethod | PairMethod):
            text = batch.text.replace(weights_BT=batch.weights_BT)
            value, slope_UT = sequence.slopes(
                self.method,
                jax.lax.stop_gradient(rows.take(states, "unlearn")),
                jax.lax.stop_gradient(head_SDV),
                text.take(rows, "unlearn"),
                batch.reference_logp_UT,
                safe["sequences"],
            )
            slopes = (rows.put(slope_UT, "unlearn"),)
        if rows.unlearn or rows.update or self._retains == "nll":
            learned = {"update": self.objective.beta}
            if self._retains == "nll":
                learned["retain"] = self.objective.gamma
            # Terms of whole logits are a part of their own.
            own = () if isinstance(self.method, LogitMethod) else ("unlearn",)
            weights = {
                role: self.token_weights(batch, rows, role) / safe[role]
                for role in (*own, *learned)
            }
            of = (self.method, alpha, learned, weights, slopes)
            parts.append(of_tokens.part(*of, batch, states))
        if rows.unlearn and isinstance(self.method, LogitMethod):
            own = self.token_weights(batch, rows, "unlearn") / safe["unlearn"]
            of = (self.method, alpha, rows, batch, states)
            parts.append(of_logits.part(*of, own, safe["weighed"], head_SDV))
        if rows.retain and self._retains == "kl":
            weights_RT = rows.take(batch.position_weights_BT, "retain") / safe["retain"]
            others = [batch.reference_hidden_RTD, weights_RT]
            if batch.retain_factor is not None:
                others.append(batch.retain_factor * weights_RT)
            parts.append(
                token_sums.Part(
                    functools.partial(retain_terms, self.objective),
                    rows.take(states, "retain"),
                    others,
                    weights_RT != 0,
                    [batch.reference_head_SDV],
                )
            )
        if self.inside.lens and inside:
            weights_BT = self.token_weights(batch, rows, "unlearn") / safe["unlearn"]
            weights_BT *= of_tokens.row_factor(batch)
            weight = alpha * self.inside.lens / len(inside)
            of = (self.method, weight, rows, batch, weights_BT)
            parts += [terms_inside.of_lens(*of, state_UTD) for state_UTD in inside]
        found = token_sums.token_sums(parts, head_SDV, tied=tied)
        if value is None:
            return found
        # The sum of slopes times log p has the term's gradient; its value is the term's.
        linear = jax.lax.stop_gradient(found["unlearn_loss"])
        total = found[token_sums.LOSS] + alpha * (value - linear)
        return found | {token_sums.LOSS: total, "unlearn_loss": value}


def padded_places(batch: Batch) -> jax.Array:
    """Places of a batch whose texts are filled up to the longest one, float32.

    Their KL is not among the sum that is divided by it: packed rows have no such places.
    """
    starts_RT = (batch.positions_BT == 0) & (batch.segment_ids_BT > 0)
    return starts_RT.sum() * (1.0 + batch.positions_BT.max())


def retain_terms(
    objective: Objective, heads: Any, hidden_CD, reference_CD, weights_C, scaled_C=None
) -> Metrics:
    """Sums of a chunk of positions that are retained: KL in nats per position.

    Args:
      scaled_C: the weights in the loss, where they are not those of the mean.
    """
    direction = objective.kl_direction
    kl_C = logprobs.divergence(heads, hidden_CD, reference_CD, direction=direction)
    kl = (weights_C * kl_C).sum()
    in_loss = kl if scaled_C is None else (scaled_C * kl_C).sum()
    return {token_sums.LOSS: objective.gamma * in_loss, "retain_kl": kl}
