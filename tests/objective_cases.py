# SPDX-License-Identifier: Apache-2.0
"""A model and texts of all roles for tests of losses."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.batch import concatenate, padding
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.tokens import Document
from jax_surgery.models.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=37,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    initializer_range=0.3,
)
CONTEXT = 16


def documents(role: int, count: int, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng((role, seed))
    lengths = rng.integers(3, 10, count)
    return [
        Document(
            rng.integers(0, 37, n).astype(np.int32), np.arange(n) >= 1 + role % 2, ""
        )
        for n in lengths
    ]


def make_batch(
    average: str, order_seed: int | None = None, extra_rows: int = 0, context=CONTEXT
):
    """All roles' documents, packed; returns (batch, rows)."""
    parts, counts = [], []
    for role in range(3):
        rows = Packer(documents(role, 6), context, average).pack(order_seed)
        missing = 4 + extra_rows - len(rows)
        if missing > 0:
            rows = concatenate([rows, padding(missing, context)])
        parts.append(rows)
        counts.append(len(rows))
    batch = concatenate(parts).for_devices()
    return jax.tree.map(jnp.asarray, batch), RoleRows(*counts)
