# SPDX-License-Identifier: Apache-2.0
"""Copies of a model that have relearned some of what it forgot.

A copy trains as an adversary would, a few steps of Adam on the layers, on half of the texts
to unlearn, drawn anew for each. For some steps the unlearn rows are then read by the model
moved by what the copy's training changed: the gradient there is that of the copy, and the
step is the model's (first order).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.tokens import Document
from jax_surgery.methods.inside.settings import Inside
from jax_surgery.models import flops
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import finetune

TEXTS = 64  # drawn for each step of a copy, at most
LOWER = 1 / 3  # of the rate, of half of the copies


class Plan(NamedTuple):
    """What a copy does: steps, learning rate, and the texts that it has."""

    steps: int
    rate: float
    texts: np.ndarray


def plan(inside: Inside, texts: int, seed: int, step: int) -> Plan:
    """The plan of the copy that is made before a step.

    Args:
      texts: to unlearn, of which it has half.
      seed: of the run.
    """
    rng = np.random.default_rng([seed, step, 1])
    count = int(rng.integers(min(2, inside.copy_steps), inside.copy_steps + 1))
    rate = inside.copy_rate * (LOWER if rng.random() < 0.5 else 1.0)
    return Plan(count, rate, rng.permutation(texts)[: -(-texts // 2)])


@jax.jit
def _zeros(layers: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, layers)


def no_change(params: Any) -> Any:
    """The change of a copy that has not trained."""
    return _zeros(params["layers"])


@jax.jit
def _changed(copy: Any, params: Any) -> Any:
    return jax.tree.map(jnp.subtract, copy["layers"], params["layers"])


@jax.jit
def _with_layers_of(copy: Any, params: Any) -> Any:
    return params | {"layers": copy["layers"]}


def change(
    params: Any,
    documents: Sequence[Document],
    inside: Inside,
    seed: int,
    step: int,
    config: ModelConfig,
    compute: Compute,
    context: int,
) -> Any:
    """What a copy's training changes of the layers; embeddings and head stay.

    Args:
      params: of the model now; left as they are.
      documents: to unlearn.
      step: of the run, before which the copy is made.
      context: tokens of a row.
    """
    chosen = plan(inside, len(documents), seed, step)
    rng = np.random.default_rng([seed, step, 2])
    rows = meshes.round_rows(inside.copy_rows)
    copy = jax.tree.map(jnp.copy, params)  # a step donates its arguments
    state = finetune.init_adam(copy)
    for _ in range(chosen.steps):
        picks = chosen.texts[rng.permutation(len(chosen.texts))[:TEXTS]]
        batch, _ = finetune.text_batch([documents[i] for i in picks], context, rows)
        copy, state = finetune.adam_step(
            config, compute, chosen.rate, copy, state, batch
        )
        copy = _with_layers_of(copy, params)
    return _changed(copy, params)


def spent(
    inside: Inside, texts: int, steps: int, seed: int, config: ModelConfig, context: int
) -> float:
    """FLOPs of all copies of a run.

    Args:
      texts: to unlearn.
      steps: of the run.
    """
    if not (inside.copies and texts):
        return 0.0
    made = range(0, steps, inside.copies)
    count = sum(plan(inside, texts, seed, step).steps for step in made)
    rows = meshes.round_rows(inside.copy_rows)
    return count * flops.training_flops(config, rows * context, context)
