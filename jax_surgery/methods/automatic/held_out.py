# SPDX-License-Identifier: Apache-2.0
"""How far a model has moved on retained text that it does not train on."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.models import decoder, logprobs, output_head, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import shifted
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes

T = TypeVar("T")
MOST = 24  # documents of each kind that are held out
LEAST = 8  # fewer say little, and are trained on
SHARE = 5  # one of so many is held out
ROWS = 4  # of a forward pass
# Nats, the most that a token counts. One whose prediction is another one has changed, and
# costs a budget no more where the old one has become still less likely: a single word that
# the task itself replaces would spend all of it.
CHANGED = 1.0
# Kinds of text, those nearest to what changes first.
_KINDS = ("neighbours", "subjects", "knowledge", "retain", "kept", "chat", "text")
_NEAREST = {kind: place for place, kind in enumerate(_KINDS)}


def split(
    kinds: Mapping[str, Sequence[T]], seed: int
) -> tuple[dict[str, list[T]], dict[str, list[T]]]:
    """(to train on, held out), by kind.

    Kinds with few documents are trained on whole; where all are such, of the largest one
    some are held out all the same.

    Args:
      kinds: texts by kind.
      seed: of the choice.
    """
    train, held = {}, {}
    largest = max(kinds, key=lambda kind: len(kinds[kind]))
    for number, (kind, documents) in enumerate(sorted(kinds.items())):
        order = np.random.default_rng((seed, number)).permutation(len(documents))
        count = min(MOST, len(documents) // SHARE)
        if count < LEAST:
            alone = len(kinds[largest]) // SHARE < LEAST and len(documents) > 1
            count = max(count, 1) if kind == largest and alone else 0
        out = set(order[:count].tolist())
        train[kind] = [d for i, d in enumerate(documents) if i not in out]
        if out:
            held[kind] = [d for i, d in enumerate(documents) if i in out]
    return train, held


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _head(params: Any, *, config: ModelConfig, compute) -> output_head.Head:
    return output_head.copies(params, config, compute)


@functools.partial(jax.jit, static_argnames=("config", "compute", "first"))
def _states(
    params: Any, batch: Batch, *, config: ModelConfig, compute, first: int
) -> jax.Array:
    return decoder.forward_packed(
        params, config, batch, compute=compute, first_trained_layer=first
    )


@functools.partial(jax.jit, static_argnames=("config", "compute", "first"))
def _sums(
    params: Any,
    reference_head: output_head.Head,
    reference_BTD: jax.Array,
    batch: Batch,
    *,
    config: ModelConfig,
    compute,
    first: int,
) -> dict[str, jax.Array]:
    """Sum of the KL over learned positions, nats, each up to `CHANGED`; and how many there
    are."""

    def terms(heads, hidden_CD, reference_CD, counts_C):
        kl_C = logprobs.divergence(
            heads, hidden_CD, reference_CD, direction="reference_to_model"
        )
        total = (counts_C * jnp.minimum(kl_C, CHANGED)).sum()
        return {token_sums.LOSS: total, "count": counts_C.sum()}

    hidden_BTD = _states(params, batch, config=config, compute=compute, first=first)
    counts_BT = (shifted(batch.weights_BT) > 0).astype(np.float32)
    others = [reference_BTD, counts_BT]
    part = token_sums.Part(terms, hidden_BTD, others, counts_BT > 0, [reference_head])
    head_SDV = output_head.copies(params, config, compute)
    return token_sums.token_sums([part], head_SDV, tied=config.tie_embeddings)


class HeldOut:
    """Held-out text by kind, and what the model before says of it."""

    def __init__(
        self,
        model: Model,
        kinds: Mapping[str, Iterable[Document]],
        context: int,
        beginning: np.ndarray | None = None,
        first: int = 0,
    ):
        """Reads the frozen model once.

        Args:
          model: before the run; of its parameters the output head alone is held.
          kinds: documents by kind.
          context: tokens of a row.
          beginning: that rows share, see `Packer`.
          first: layer that moves; what lies below it is computed once.
        """
        how: dict[str, Any] = {"config": model.config, "compute": model.compute}
        rows = meshes.round_rows(ROWS)
        self._head = _head(model.params, **how)
        self._how = how | {"first": first}
        self._batches: dict[str, list[tuple[Batch, jax.Array]]] = {}
        for kind, documents in kinds.items():
            packer = Packer(list(documents), context, "tokens", beginning=beginning)
            packed = packer.pack()
            found = self._batches[kind] = []
            for batch in one_pass(packed, rows, f"reading held-out {kind}"):
                # Every process has all rows, and places those that are its own.
                mine = batch.select(meshes.rows_here(len(batch)))
                placed = mine.place(len(batch))
                placed = decoder.with_lower(model.params, batch=placed, **self._how)
                found.append((placed, _states(model.params, placed, **self._how)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that have text."""
        return tuple(self._batches)

    def kl_of_part(self, params: Any) -> float:
        """Mean KL of the first batch of the kind that lies nearest to what changes, which
        moves furthest."""
        kind = min(self._batches, key=lambda kind: _NEAREST.get(kind, len(_NEAREST)))
        return self._kl(params, self._batches[kind][:1])

    def kl(self, params: Any) -> dict[str, float]:
        """Mean KL(before || now) of each kind, nats per learned token, of which each counts
        up to `CHANGED`.
        """
        return {kind: self._kl(params, of) for kind, of in self._batches.items()}

    def _kl(self, params: Any, batches: Sequence[tuple[Batch, jax.Array]]) -> float:
        total = count = 0.0
        for batch, reference_BTD in batches:
            sums = _sums(params, self._head, reference_BTD, batch, **self._how)
            total += float(sums[token_sums.LOSS])
            count += float(sums["count"])
        return total / max(count, 1.0)
