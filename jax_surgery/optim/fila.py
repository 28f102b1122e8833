# SPDX-License-Identifier: Apache-2.0
"""FILA: low-rank factors that begin where weights matter (LoKU, arXiv 2408.06621).

With the importance I of each weight for the text to unlearn and for retained text,
rho = I_unlearn / (1e-5 + I_retain), and of a matrix W [inputs, outputs]

    w_o = sqrt(sum_i rho_io),   W diag(w) ~ U S V^T of rank r,
    A = U sqrt(S / s),   B = sqrt(S / s) V^T diag(1 / (w + 1e-5)),   s = alpha / r

so that s A B is the best approximation of W in the norm that rho weighs.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.optim.linalg.svd import svd
from jax_surgery.optim.lora import Factors, LowRank

EPSILON = 1e-5  # beside retained text's importance, and beside the weights of outputs


def start(
    kernel_LXY: jax.Array,
    unlearn_LXY: jax.Array,
    retain_LXY: jax.Array,
    rank: int,
    scale: float,
) -> tuple[jax.Array, jax.Array]:
    """A [layers, inputs, rank] and B [layers, rank, outputs] of one matrix, float32.

    Args:
      kernel_LXY: the matrix of each layer, [inputs, outputs].
      unlearn_LXY, retain_LXY: importance of its weights, at least 0.
      rank: r.
      scale: s, by which A B is multiplied in a delta.
    """
    rho_LXY = unlearn_LXY / (EPSILON + retain_LXY)
    weight_LY = jnp.sqrt(rho_LXY.sum(1))
    found = svd(kernel_LXY.astype(jnp.float32) * weight_LY[:, None], rank)
    root_LK = jnp.sqrt(found.s_LK / scale)
    a_LXK = found.u_LXK * root_LK[:, None]
    b_LKY = jnp.swapaxes(found.v_LYK * root_LK[:, None], 1, 2)
    return a_LXK, b_LKY / (weight_LY[:, None] + EPSILON)


def factors(
    kernels: Mapping[str, jax.Array],
    unlearn: Mapping[str, jax.Array],
    retain: Mapping[str, jax.Array],
    config: ModelConfig,
    low_rank: LowRank,
) -> Factors:
    """The factors at the beginning, and beside them that beginning.

    Args:
      kernels: of each matrix that has a delta, [layers, inputs, outputs].
      unlearn, retain: the importance of their weights.
    """
    layers: Factors = {}
    for name, kernel_LXY in kernels.items():
        row = MATRICES[name]
        of = (kernel_LXY, unlearn[name], retain[name], low_rank.rank, low_rank.scale)
        found = dict(zip(("a", "b"), start(*of), strict=True))
        shaped = {
            key: found[key[-1]].reshape(-1, *factor.shape(config, low_rank.rank))
            for key, factor in row.factors.items()
        }
        began = {f"start_{key[-1]}": jnp.copy(array) for key, array in shaped.items()}
        layers.setdefault(row.block, {})[name] = shaped | began
    return {"layers": layers}
