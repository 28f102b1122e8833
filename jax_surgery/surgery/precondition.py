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
Factors = dict[str, jax.Array]

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


def factorise(moments: Moments, ridge: float) -> Factors:
    """Cholesky factors of A / tau + ridge * I for each input of each layer.

    Args:
      moments: sums (or means) of x x^T over kept text, [layers, d, d] each; their
        scale does not matter.
      ridge: relative to the mean eigenvalue; larger protects kept text less.

    Returns:
      Lower factors [layers, d, d], with the moments' keys.
    """

    def factor(moment_LXX):
        width = moment_LXX.shape[-1]
        tau_L = jnp.trace(moment_LXX, axis1=1, axis2=2) / width
        scaled = moment_LXX / jnp.maximum(tau_L, 1e-30)[:, None, None]
        return jnp.linalg.cholesky(scaled + ridge * jnp.eye(width))

    return jax.tree.map(factor, moments)


def identity_factors(params: Params) -> Factors:
    """Factors that leave gradients as they are."""
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


def solve(factor_LXX: jax.Array, gradient_LX: jax.Array) -> jax.Array:
    """(A / tau + ridge I)^-1 G, layer by layer; G is [layers, d, ...]."""
    layers, width = factor_LXX.shape[:2]
    flat = gradient_LX.reshape(layers, width, -1).astype(jnp.float32)
    solved = jax.vmap(lambda f, g: jax.scipy.linalg.cho_solve((f, True), g))(
        factor_LXX, flat
    )
    return solved.reshape(gradient_LX.shape)


def precondition(gradients: Params, factors: Factors) -> Params:
    """Preconditions the layers' matrices; every other gradient becomes zero."""
    result = jax.tree.map(jnp.zeros_like, gradients)
    for (block, name), kind in INPUT_OF.items():
        kernel = gradients["layers"][block][name]["kernel"]
        if name == "o":  # [L, N, H, D]: its input is N * H wide
            wide = kernel.reshape(kernel.shape[0], -1, kernel.shape[-1])
            solved = solve(factors[kind], wide).reshape(kernel.shape)
        else:
            solved = solve(factors[kind], kernel)
        result["layers"][block][name] = {"kernel": solved}
    return result
