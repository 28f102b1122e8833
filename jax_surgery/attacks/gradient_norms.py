# SPDX-License-Identifier: Apache-2.0
"""The gradient norm as a membership score: what a model was trained on moves it little.

Wang et al. 2024, arXiv 2402.17012, with the norm of open-unlearning: the mean over the
tensors of a checkpoint of the 2-norm of the gradient of a text's mean negative
log-likelihood. Texts are taken one after another, so that one gradient is held at a time.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.tokens import Document
from jax_surgery.metrics.whole_texts import WholeTexts
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import preemption, progress
from jax_surgery.train import finetune

LEAST_WIDTH = (
    32  # tokens of a row; widths are powers of 2, so that few programs compile
)
TOGETHER = 16  # texts that one call goes through, one after another


@functools.partial(jax.jit, static_argnums=(1, 3))
def _norms(params, config: ModelConfig, batches: Batch, compute: decoder.Compute):
    """The norm of each text's gradient, float32 [N].

    Args:
      batches: of each text its pieces as rows, [N, pieces, T].
    """

    def of_text(batch: Batch) -> jax.Array:
        gradient = jax.grad(finetune.cross_entropy)(params, config, batch, compute)
        layers = gradient.pop("layers")
        squares = lambda g, axes: jnp.square(g.astype(jnp.float32)).sum(axes)
        stacked = [squares(g, tuple(range(1, g.ndim))) for g in jax.tree.leaves(layers)]
        single = [squares(g, None)[None] for g in jax.tree.leaves(gradient)]
        return jnp.sqrt(jnp.concatenate([*stacked, *single])).mean()

    return jax.lax.map(of_text, batches)


def _rows(pieces: Sequence[Document], rows: int, width: int) -> Batch:
    """A text's pieces, one a row, whose asked tokens weigh 1 together."""
    shape = (rows, width)
    batch = Batch(
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
    )
    total = sum(document.targets for document in pieces)
    for row, document in enumerate(pieces):
        size = len(document.tokens)
        batch.tokens_BT[row, :size] = document.tokens
        batch.segment_ids_BT[row, :size] = 1
        batch.positions_BT[row, :size] = np.arange(size)
        batch.weights_BT[row, 1:size] = document.learned[1:] / total
    return batch


def gradient_norms(model: Model, texts: WholeTexts) -> np.ndarray:
    """The gradient norm of each text, float64 [texts].

    Memory: the gradient of one text beside the parameters. On several devices each step
    reads one text all the same, whose rows are filled up.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    pieces = texts.pieces()
    for number, own in enumerate(pieces):
        longest = max(len(document.tokens) for document in own)
        width = max(LEAST_WIDTH, 1 << (longest - 1).bit_length())
        groups.setdefault((meshes.round_rows(len(own)), width), []).append(number)
    found = np.zeros(len(texts))
    calls = [
        (shape, numbers[start : start + TOGETHER])
        for shape, numbers in groups.items()
        for start in range(0, len(numbers), TOGETHER)
    ]
    for shape, numbers in progress.Bar(calls, title="gradients of texts", unit="batch"):
        batches = [_rows(pieces[number], *shape) for number in numbers]
        batches += [_rows((), *shape)] * (TOGETHER - len(numbers))
        stacked = jax.tree.map(lambda *each: np.stack(each), *batches)
        preemption.pass_point()
        norms = _norms(model.params, model.config, stacked, model.compute)
        found[numbers] = meshes.fetch(norms)[: len(numbers)]
    return found
