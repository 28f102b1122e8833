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
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_surgery.data.batch import Batch
from jax_surgery.models import logprobs
from jax_surgery.models.logprobs import Compared, TokenLogprobs
from jax_surgery.models.output_head import Head


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
        the log p of each token, of "retain" the hidden states of its layer. The states
        that the KL of the retain term reads are not among it.
      bound: how an option bounds the unlearn term more tightly, as part of a sentence
        that a run is told which diverges; "" where none does.
    """

    roles: tuple[str, ...] = ("unlearn",)
    reference: tuple[str, ...] = ()
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
            others = logprobs.compared(head_DV, hidden_CD, *of)
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
    """The term is a mean over pairs of a text to unlearn and its alternative."""

    @abc.abstractmethod
    def unlearn(self, forget: Sequences, alternative: Sequences) -> jax.Array:
        """The term of each pair, at its positions, [U, T]."""


@dataclasses.dataclass(frozen=True)
class HiddenMethod(Method):
    """The unlearn and the retain term are of hidden states of a layer.

    Unlearn: a mean over learned tokens. Retain: over all positions of retained text, in
    place of the KL.

    Attributes:
      layer: index of the layer, from 0, whose output they are; an option.
    """

    layer: int

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
