# SPDX-License-Identifier: Apache-2.0
"""Which weights matter for the text to unlearn: what LoKU's deltas begin with.

The importance of a weight for some texts is the mean, over their learned tokens, of its
squared gradient: sum_b n_b g_b^2 / sum_b n_b, with g_b the gradient of the mean
cross-entropy of the n_b learned tokens of a group of texts (`LoKU.texts`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.data.tokens import Document
from jax_surgery.methods.loku import LoKU
from jax_surgery.models import decoder, sharding
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim import fila
from jax_surgery.optim.lora import Factors, LowRank
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import finetune

TOKENS = 64  # rows are as long as the longest text, rounded up to a multiple of this


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _add(
    config: ModelConfig,
    compute: decoder.Compute,
    trainable: Trainable,
    sums: Matrices,
    params: Any,
    batch: Batch,
    tokens: jax.Array,
) -> Matrices:
    """The sums with a group's squared gradient, `tokens` times."""

    def loss(params):
        return finetune.cross_entropy(trainable.freeze(params), config, batch, compute)

    found = trainable.take(jax.grad(loss)(params))
    square = lambda total, g: total + tokens * jnp.square(g.astype(jnp.float32))
    return jax.tree.map(square, sums, found)


def chosen(
    documents: Sequence[Document], method: LoKU, seed: int
) -> list[list[Document]]:
    """The groups of texts that are read, in a random order."""
    order = np.random.default_rng(seed).permutation(len(documents))
    few = [documents[i] for i in order[: method.most or None]]
    few = [document for document in few if document.targets]
    return [few[i : i + method.texts] for i in range(0, len(few), method.texts)]


def shape(groups: Sequence[Sequence[Document]]) -> tuple[int, int]:
    """Rows and tokens of a row in which each group of texts is read."""
    if not groups:
        return 0, 0
    longest = max(len(document.tokens) for group in groups for document in group)
    return meshes.round_rows(max(map(len, groups))), -(-longest // TOKENS) * TOKENS


def importance(
    model: Model, groups: Sequence[Sequence[Document]], trainable: Trainable
) -> Matrices:
    """By matrix [layers, inputs, outputs], float32.

    Args:
      groups: of texts, whose gradient is squared together.
      trainable: the matrices.
    """
    rows, width = shape(groups)
    how, total = (model.config, model.compute, trainable), 0
    zeros = lambda kernel: jnp.zeros(kernel.shape, jnp.float32)
    sums = jax.tree.map(zeros, trainable.take(model.params))
    for group in groups:
        batch, _ = finetune.text_batch(group, width, rows)
        tokens = sum(document.targets for document in group)
        sums = _add(*how, sums, model.params, batch, jnp.float32(tokens))
        total += tokens
    return {name: array / max(total, 1) for name, array in sums.items()}


def factors(
    model: Model,
    texts: RoleTexts,
    method: LoKU,
    low_rank: LowRank,
    seed: int,
) -> Factors:
    """The low-rank factors with which a run of LoKU begins (`optim.fila`).

    Args:
      texts: with an unlearn role, and retained text.
      seed: of the texts that are read.
    """
    trainable, found = Trainable(0, low_rank.targets), {}
    assert texts.retained, "LoKU without retained text is refused"
    for role, packer in (
        ("unlearn", texts.packers["unlearn"]),
        ("retain", texts.retained),
    ):
        groups = chosen(packer.documents, method, seed)
        found[role] = importance(model, groups, trainable)
    kernels = trainable.take(model.params)
    of_model = (model.config, low_rank)

    @jax.jit
    def make(kernels: Matrices, unlearn: Matrices, retain: Matrices) -> Factors:
        return sharding.constrain(fila.factors(kernels, unlearn, retain, *of_model))

    return make(kernels, found["unlearn"], found["retain"])
