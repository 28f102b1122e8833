# SPDX-License-Identifier: Apache-2.0
"""The interface of methods that unlearn by descent: what they read, and their term.

    L(theta) = alpha * unlearn term       the method's own
             + beta  * CE(theta; update)  descent on what is new
             + gamma * retain term        stay where the model was: KL or CE

A method is a frozen dataclass whose fields are its options. It extends the class of the
level at which its term is computed, and returns the term there; `loss.Loss` does the rest:
weights, averages over the global batch, chunks of logits, the frozen model. Terms are
minimised, and are in nats unless a method says otherwise.
"""

import abc
import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.data.pairs import Alternatives
from jax_surgery.models import compared
from jax_surgery.models.compared import Compared
from jax_surgery.models.documents import shifted
from jax_surgery.models.logprobs import TokenLogprobs
from jax_surgery.models.output_head import Head

Retains = Literal["", "none", "nll", "kl"]


class Sequences(NamedTuple):
    """Sums over each document's learned tokens, float32 [U, T], the same at all of a
    document's positions.

    Attributes:
      logp: sum of log p, nats.
      reference_logp: the frozen model's; 0 where `Method.reference` does not ask for it.
      tokens: how many tokens are learned, at least 1.
    """

    logp: jax.Array
    reference_logp: jax.Array
    tokens: jax.Array


class Method(abc.ABC):
    """The base of all methods; extend the class of a level, not this one.

    Those that do not descend (`subspace.method`) have options alone.

    Attributes:
      roles: that must have rows.
      reference: roles on whose text the method reads the frozen model: of "unlearn"
        the log p of each token, or its logits (`LogitMethod`), of "retain" the hidden
        states of its layer. The states that the KL of the retain term reads are not
        among it.
      retains: the retain term where it is part of the method: "none", "nll" (CE) or
        "kl"; "" leaves it to `objective.retain`.
      sharpness: length of the step along the unlearn term's gradient, uphill, at whose
        end that gradient is taken (`methods.sharpness`); 0 takes it here.
      applied: the change of the steps is multiplied by this in the model that a run ends
        with: 1, or less than 0 where what is learned is subtracted.
      published: fields of `config.objective` that its authors' code sets otherwise than
        alpha=1, gamma=1 and retain=nll. Runs do not read it; comparisons do.
      bound: how an option bounds the unlearn term more tightly, as part of a sentence
        that a run is told which diverges; "" where none does.
    """

    roles: tuple[str, ...] = ("unlearn",)
    reference: tuple[str, ...] = ()
    retains: Retains = ""
    sharpness: float = 0.0
    applied: float = 1.0
    published: Mapping[str, Any] = types.MappingProxyType({})
    bound: str = ""


class TokenMethod(Method):
    """The term is a mean over learned tokens (as `data.average` weighs them)."""

    @abc.abstractmethod
    def unlearn(self, found: TokenLogprobs) -> jax.Array:
        """The term of each token of a chunk, [C]; differentiated as it stands."""


@dataclasses.dataclass(frozen=True)
class TargetMethod(TokenMethod):
    """A token method whose every token has a target of its own.

    Attributes:
      level: nats, the target where a batch has no `target_log_odds_BT`; an option.
    """

    level: float

    def targets(self, batch: Batch) -> list[jax.Array]:
        """Where tokens end, [B, T, ...]: log-odds, nats; and, where the batch has them,
        the tokens that they are compared with, and how much likelier those are."""
        if batch.target_log_odds_BT is None:
            return [jnp.full_like(batch.weights_BT, self.level)]
        if batch.drawn_BTK is None:
            return [batch.target_log_odds_BT]
        return [batch.target_log_odds_BT, batch.drawn_BTK, batch.likelier_BTK]

    def of_chunk(
        self,
        head_DV: Head,
        hidden_CD: jax.Array,
        tokens_C: jax.Array,
        found: TokenLogprobs,
        target_C: jax.Array,
        drawn_CK: jax.Array | None = None,
        likelier_CK: jax.Array | None = None,
    ) -> jax.Array:
        """`unlearn` of a chunk, from what `targets` gives of it."""
        others = None
        if drawn_CK is not None and likelier_CK is not None:
            of = (tokens_C, drawn_CK, likelier_CK)
            others = compared.of_chunk(head_DV, hidden_CD, *of)
        return self.unlearn(found, target_C, others)

    @abc.abstractmethod
    def unlearn(  # pyrefly: ignore[bad-override]  # more arguments
        self,
        found: TokenLogprobs,
        target_C: jax.Array,
        others: Compared | None = None,
    ) -> jax.Array:
        """The term of each token of a chunk, [C]; differentiated as it stands.

        Args:
          target_C: nats, to which log-odds are to come down.
          others: each token beside those that a model that never knew may say there, if
            the batch has some.
        """


class SequenceMethod(Method):
    """The term is a mean over documents; a text longer than the context
    is split, and its pieces count as documents."""

    @abc.abstractmethod
    def unlearn(self, sequences: Sequences) -> jax.Array:
        """The term of each document, at its positions, [U, T]."""


class PairMethod(Method):
    """The term is a mean over pairs of a text to unlearn and its alternative.

    Attributes:
      alternatives: where they come from, see `data.pairs.Alternatives`.
    """

    alternatives: Alternatives = "any"

    @abc.abstractmethod
    def unlearn(self, forget: Sequences, alternative: Sequences) -> jax.Array:
        """The term of each pair, at its positions, [U, T]."""


class WeighedMethod(Method):
    """The term is a mean over positions of the unlearn rows, which the method may weigh
    otherwise than `data.average` does."""

    @abc.abstractmethod
    def weights(self, batch: Batch) -> jax.Array:
        """The weight of each position of the unlearn rows, float32 [U, T]."""

    def total(self, batch: Batch) -> jax.Array:
        """What the weighed sum over the global batch is divided by, a scalar."""
        return self.weights(batch).sum()


class LogitMethod(WeighedMethod):
    """The term of a token is of all logits that predict it.

    With "unlearn" in `reference` it has the frozen model's as well.
    """

    @abc.abstractmethod
    def unlearn(
        self, logits_CV: jax.Array, targets_C: jax.Array, frozen_CV: jax.Array | None
    ) -> jax.Array:
        """The term of each position of a chunk, [C]; differentiated by `logits_CV`.

        Args:
          logits_CV: float32.
          targets_C: see `targets`.
          frozen_CV: the frozen model's logits; None without a reference.
        """

    def weights(self, batch: Batch) -> jax.Array:
        """Of the token that each position predicts."""
        return shifted(batch.weights_BT)

    def targets(self, batch: Batch, vocab: int) -> jax.Array:
        """The token that each position is asked about, [U, T]: the next one."""
        del vocab
        return shifted(batch.tokens_BT)


@dataclasses.dataclass(frozen=True)
class HiddenMethod(WeighedMethod):
    """The unlearn and the retain term are of hidden states of a layer.

    Unlearn: a mean over learned tokens. Retain: over all positions of retained text, in
    place of the KL.

    Attributes:
      layer: index of the layer, from 0, whose output they are; an option.
    """

    layer: int

    def weights(self, batch: Batch) -> jax.Array:
        """Of the learned tokens themselves, whose states are steered."""
        return batch.weights_BT

    @abc.abstractmethod
    def unlearn(self, hidden_UTD: jax.Array) -> jax.Array:
        """The term of each position of the unlearn rows, float32 [U, T]."""

    @abc.abstractmethod
    def retain(self, hidden_RTD: jax.Array, reference_RTD: jax.Array) -> jax.Array:
        """The term of each position of the retain rows, float32 [R, T].

        Args:
          hidden_RTD: hidden states of the model.
          reference_RTD: hidden states of the frozen model.
        """
