# SPDX-License-Identifier: Apache-2.0
"""Gradients kept out of the directions that the retained text uses.

For a weight matrix W with y = x W, let A = E[x x^T] over text that must be kept. The
change of y on that text caused by W <- W - G is x G, of mean square tr(G^T A G). The
step of given size along the gradient that costs least there is

    G' = (A / tau + ridge * I)^-1 G,      tau = tr(A) / d

a soft projection away from the inputs that kept text produces (a soft
Gram-Schmidt on the input side, and the input factor of Kronecker-factored curvature). Only
the seven matrices of each layer are changed; embedding, norms and head are frozen.
"""

from typing import Any

import jax
import jax.numpy as jnp

Params = Any
Moments = dict[str, jax.Array]
Inverses = dict[str, jax.Array]

# Which moment each matrix's input has.
INPUT_OF = {
    ("attention", "q"): "attention_in",
    ("attention", "k"): "attention_in",
    ("attention", "v"): "attention_in",
    ("attention", "o"): "attention_out",
    ("mlp", "gate"): "mlp_in",
    ("mlp", "up"): "mlp_in",
    ("mlp", "down"): "mlp_hidden",
}


def invert(moments: Moments, ridge: float) -> Inverses:
    """(A / tau + ridge * I)^-1 for each input of each layer, through Cholesky.

    The inverse is formed once for a batch of statistics and then multiplied with the
    gradients of many steps: a product costs what two triangular solves do and is fast
    on every device. (Solves inside the step, as LAPACK calls, stopped XLA's CPU
    client for good when two steps were in flight on two threads.)

    Args:
      moments: sums (or means) of x x^T over kept text, [layers, d, d] each; their
        scale does not matter.
      ridge: relative to the mean eigenvalue; larger protects kept text less.

    Returns:
      Symmetric matrices [layers, d, d], with the moments' keys.
    """

    def inverse(moment_XX):
        width = moment_XX.shape[-1]
        tau = jnp.trace(moment_XX) / width
        scaled = moment_XX / jnp.maximum(tau, 1e-30) + ridge * jnp.eye(width)
        factor = jax.scipy.linalg.cho_factor(scaled, lower=True)
        return jax.scipy.linalg.cho_solve(factor, jnp.eye(width))

    return jax.tree.map(lambda m: jax.lax.map(inverse, m), moments)


def identity_inverses(params: Params) -> Inverses:
    """Inverses that leave gradients as they are."""
    attention, mlp = params["layers"]["attention"], params["layers"]["mlp"]
    layers, width = attention["q"]["kernel"].shape[:2]
    inner = attention["o"]["kernel"].shape[1] * attention["o"]["kernel"].shape[2]
    widths = {
        "attention_in": width,
        "attention_out": inner,
        "mlp_in": width,
        "mlp_hidden": mlp["down"]["kernel"].shape[1],
    }
    return {k: jnp.tile(jnp.eye(d), (layers, 1, 1)) for k, d in widths.items()}


def _apply(inverse_LXX: jax.Array, gradient: jax.Array) -> jax.Array:
    """The inverse times G, layer by layer; G's input axes are flattened to X."""
    layers, width = inverse_LXX.shape[:2]
    flat_LXY = gradient.reshape(layers, width, -1).astype(jnp.float32)
    return jnp.einsum("LXZ,LZY->LXY", inverse_LXX, flat_LXY).reshape(gradient.shape)


def precondition(gradients: Params, inverses: Inverses) -> Params:
    """Preconditions the layers' matrices; every other gradient becomes zero."""
    result = jax.tree.map(jnp.zeros_like, gradients)
    for (block, name), kind in INPUT_OF.items():
        kernel = gradients["layers"][block][name]["kernel"]
        result["layers"][block][name] = {"kernel": _apply(inverses[kind], kernel)}
    return result
