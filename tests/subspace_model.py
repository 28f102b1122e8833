# SPDX-License-Identifier: Apache-2.0
"""A small model, batches with token weights, and `pull` computed from all logits."""

import jax
import jax.numpy as jnp
import numpy as np
from plain_settings import plain_compute

from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import identify
from jax_surgery.models import decoder, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import BLOCK_OF, Trainable

CONFIG = ModelConfig(32, 16, 24, 3, 2, 1, 8, initializer_range=0.3)
COMPUTE = plain_compute()
EVERY = Trainable(0, tuple(BLOCK_OF))
UPPER = Trainable(1, ("o", "up", "down"))
task_matrix = identify.jitted_task_matrix
MARGIN = identify.TaskLoss("margin", 4.0)
FAR = 1e4  # nats; log-odds that no margin reaches


def params_of(seed: int = 0):
    return decoder.init_params(CONFIG, seed)


def batch_of(seed: int = 0, rows: int = 2, half: int = 6):
    """Rows of two documents of `half` tokens and some padding.

    All tokens of a document but its first have a weight: positive, negative or 0. The
    model's margins and the target log-odds are both about -3 nats.
    """
    rng = np.random.default_rng(seed)
    tokens = 2 * half + 3
    shape = (rows, tokens)
    segments = np.repeat([1, 2, 0], [half, half, 3])
    positions = np.concatenate([np.arange(half), np.arange(half), np.zeros(3)])
    push = rng.choice([-0.5, 0.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)
    push[:, (positions == 0) | (segments == 0)] = 0
    return Batch(
        tokens_BT=jnp.asarray(rng.integers(0, CONFIG.vocab_size, shape), jnp.int32),
        segment_ids_BT=jnp.asarray(np.tile(segments, (rows, 1)), jnp.int32),
        positions_BT=jnp.asarray(np.tile(positions, (rows, 1)), jnp.int32),
        token_weights_BT=jnp.asarray(push, jnp.float32),
        target_log_odds_BT=jnp.asarray(rng.normal(-3, 1, shape), jnp.float32),
    )


def pushed(batch, push: float, bound: float):
    """The batch with equal weights on all tokens that have one."""
    moves_BT = jnp.asarray(batch.token_weights_BT != 0, jnp.float32)
    return batch.replace(
        token_weights_BT=push * moves_BT,
        target_log_odds_BT=jnp.full_like(moves_BT, bound),
    )


@jax.jit
def logits_of(params, batch):
    """Logits of the token after each position, [B, T - 1, V]."""
    hidden = decoder.forward_packed(params, CONFIG, batch, compute=COMPUTE)
    return (hidden @ output_head.kernel(params))[:, :-1]


def margins(params, batch) -> np.ndarray:
    """Log-odds of tokens 1, 2, ..., float64 [B, T - 1]: log p / (1 - p)."""
    logits = np.asarray(logits_of(params, batch), np.float64)
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    of_target = np.take_along_axis(weight, np.asarray(targets(batch))[..., None], -1)[
        ..., 0
    ]
    return np.log(of_target) - np.log(weight.sum(-1) - of_target)


def targets(batch):
    return batch.tokens_BT[:, 1:]


def is_open(params, batch) -> np.ndarray:
    """Which of tokens 1, 2, ... have not reached their target log-odds."""
    push, bound = (
        np.asarray(array)[:, 1:]
        for array in (batch.token_weights_BT, batch.target_log_odds_BT)
    )
    margin = margins(params, batch)
    return ((push > 0) & (margin > bound)) | ((push < 0) & (margin < bound))


def dense_pull(params, batch, loss: identify.TaskLoss, open_BT=None):
    """`identify.pull` from all logits at once, with JAX's own derivative.

    Args:
      open_BT: which tokens count; None is all.
    """
    logits = logits_of(params, batch)
    push = batch.token_weights_BT[:, 1:]
    if loss.kind == "cross_entropy":
        logp = jax.nn.log_softmax(logits / loss.temperature)
    else:
        logp = jax.nn.log_softmax(logits)
    value = jnp.take_along_axis(logp, targets(batch)[..., None], -1)[..., 0]
    if loss.kind == "margin":
        value = value - jnp.log1p(-jnp.exp(value))
    if open_BT is not None:
        push = push * open_BT
    return (push * value).sum()


def random_matrices(seed: int, trainable: Trainable = EVERY):
    """Normal matrices of the shapes that move."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=m.shape), jnp.float32)
        for name, m in trainable.take(params_of()).items()
    }


def norm(matrices) -> float:
    """Norm of all matrices together, float64."""
    leaves = jax.tree.leaves(matrices)
    return float(np.sqrt(sum((np.asarray(m, np.float64) ** 2).sum() for m in leaves)))


def outside(change, trainable: Trainable = UPPER):
    """A change, or gradients, without the part that moves."""
    moving = trainable.paste(trainable.cut(change), change)
    return jax.tree.map(jnp.subtract, change, moving)
