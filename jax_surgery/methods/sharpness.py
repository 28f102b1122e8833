# SPDX-License-Identifier: Apache-2.0
"""Sharpness-aware unlearning: the unlearn term's gradient is that of a worse place nearby.

    gradient = grad u(theta + rho g / |g|) + gradient of the other terms at theta,
    g = grad u(theta)

with u the weighed unlearn term (Foret et al. 2021, arXiv 2010.01412; for unlearning Fan et
al. 2025, arXiv 2502.05374). The unlearn rows are read twice, the others once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.loss import Loss
from jax_surgery.models import decoder, token_sums
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.train import step as steps


def make_gradients(
    config: ModelConfig,
    loss: Loss,
    rows: RoleRows,
    compute: decoder.Compute,
    parts: int,
    trainable: Trainable,
) -> steps.Gradients:
    """See `train.step.make_gradients`; of a loss whose method has a `sharpness`."""
    unlearned = rows.only_of("unlearn")
    others = tuple(role for role in rows.present if role != "unlearn")
    rest = rows.only_of(*others)
    of_unlearn, of_rest = (
        steps.make_gradients(config, own, of, compute, parts, trainable)
        for own, of in ((loss, unlearned), (loss.without_unlearn(), rest))
    )

    def gradients(attach: Callable[[Any], Any], moving: Any, batch: Batch):
        text = _of_roles(batch, rows, "unlearn")
        metrics, uphill = of_unlearn(attach, moving, text)
        scale = loss.method.sharpness / jnp.maximum(optax.tree.norm(uphill), 1e-12)
        step = trainable.whole(jax.tree.map(lambda g: scale * g, uphill), moving)
        there = trainable.moved(moving, step)
        _, found = of_unlearn(attach, there, text)
        if others:
            more, grads = of_rest(attach, moving, _of_roles(batch, rows, *others))
            found = jax.tree.map(jnp.add, found, grads)
            total = metrics[token_sums.LOSS] + more[token_sums.LOSS]
            metrics = metrics | more | {token_sums.LOSS: total}
        return metrics, found

    return gradients


def _of_roles(batch: Batch, rows: RoleRows, *roles: str) -> Batch:
    """The rows of some roles, with what the loss reads of the frozen model on them."""
    kept = dict(batch.shared)
    if "unlearn" in roles:
        kept["reference_logp_UT"] = batch.reference_logp_UT
        kept["reference_hidden_UTD"] = batch.reference_hidden_UTD
    if "retain" in roles:
        kept["reference_hidden_RTD"] = batch.reference_hidden_RTD
    return batch.take(rows, *roles).replace(**kept)
