# SPDX-License-Identifier: Apache-2.0
"""The one solver with second moments of a matrix's inputs: (A / tau + ridge I)^-1.

A = sum w x x^T over the inputs of some text (`moments`), tau = tr(A) / d its mean
eigenvalue, and ridge a small positive number, so that directions which the text never
uses have a bound. With the Cholesky factor L L^T = A / tau + ridge I:

    solve    (L L^T)^-1 M = (A / tau + ridge I)^-1 M
    of_each  any function of L and M, L^-1 M say

Some inputs of a real model are thousands of times larger than the others ("massive
activations", Sun et al. 2024), and the mean eigenvalue is theirs. Then a ridge relative to
it is no small one for the rest; with scale="inputs" it is relative to each input's own
second moment, A / tau + ridge diag(A / tau), as Marquardt (1963) damps least squares.

The optimizers' directions, the discrimination of subspaces and closed-form editors use
it. Eigenvalues are never computed: the compiler for TPUs does not finish
an eigendecomposition of width 11,008. Factors lie over the mesh as moments do, split over
`fsdp`; for a product the layers are dealt out over the devices (`over_layers`).
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jax_surgery.models import sharding
from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import Matrices
from jax_surgery.optim.linalg import cholesky
from jax_surgery.optim.linalg.layers import over_layers
from jax_surgery.optim.precondition.moments import Moments

Scale = Literal["mean", "inputs"]
LEAST = 1e-6  # of the mean eigenvalue, that an input counts as where scale="inputs"
MOST = 0.1  # a ridge that `raised` tries; more would hardly protect the text


class Factors(NamedTuple):
    """Lower Cholesky factors of A / tau + ridge I, float32.

    Attributes:
      lower: [layers, d, d] of each statistic of the inputs (`layout.Row`).
      outputs: of each matrix the inverse that its outputs' gradients ask for, [layers,
        outputs, outputs] (`of_outputs`); {} where they are not used.
    """

    lower: Moments
    outputs: Moments = {}  # noqa: RUF012, nobody changes it


@functools.partial(jax.jit, static_argnames="scale")
def factorise(moments: Moments, ridge: float, scale: Scale = "mean") -> Factors:
    """Cholesky factors of A / tau + ridge I, each layer's made on one of the devices.

    Where rounding leaves no positive definite matrix a factor has nan: see `checked`.

    Args:
      moments: sums (or means) of x x^T, [layers, d, d] each; their scale does not
        matter.
      ridge: relative to the mean eigenvalue, or to each input's own second moment;
        larger values protect the text less.
      scale: of the ridge: "mean", or "inputs". Inputs that the text hardly uses count as
        `LEAST` of the mean eigenvalue there.
    """

    def factor(moment_XX):
        width = moment_XX.shape[-1]
        tau = jnp.maximum(jnp.trace(moment_XX) / width, 1e-30)
        own_X = jnp.ones(width)
        if scale == "inputs":
            own_X = jnp.maximum(jnp.diagonal(moment_XX) / tau, LEAST)
        return cholesky.cholesky(moment_XX / tau + ridge * jnp.diag(own_X))

    lower = {kind: over_layers(factor, m) for kind, m in moments.items()}
    return sharding.constrain(Factors(lower))


def checked(
    moments: Moments, ridge: float, field: str, scale: Scale = "mean"
) -> Factors:
    """`factorise`, of which every factor is finite.

    Args:
      moments, ridge, scale: see `factorise`.
      field: what the user calls the ridge, for example "config.statistics.ridge".

    Raises:
      ValueError: moments that are not finite, or a ridge below their rounding errors.
    """
    factors = factorise(moments, ridge, scale)
    if not (bad := _not_finite(factors.lower)):
        return factors
    if of_text := _not_finite(moments):
        raise ValueError(
            f"The second moments of {', '.join(of_text)} are not finite: activations of "
            "the model overflow on this text. Use config.compute.dtype=float32, or "
            "check the model's weights."
        )
    raise ValueError(
        f"{field}={ridge:g} is too small for float32: the second moments of "
        f"{', '.join(bad)} have no Cholesky factor, because their rounding errors are "
        f"larger than the ridge. Use {field}={10 * ridge:g} or more."
    )


def raised(
    moments: Moments, ridge: float, field: str, scale: Scale = "mean"
) -> Factors:
    """`checked`, with the first of ridge, 10 ridge, ... that gives finite factors.

    Raises:
      ValueError: moments that are not finite, or no ridge up to `MOST`.
    """
    while True:
        try:
            return checked(moments, ridge, field, scale)
        except ValueError:
            if _not_finite(moments) or 10 * ridge > MOST:
                raise
            ridge *= 10
            print(f"{field} is raised to {ridge:g}: smaller ones are lost in float32")


def _not_finite(arrays: Moments) -> list[str]:
    return [kind for kind, a in arrays.items() if not bool(jnp.isfinite(a).all())]


@functools.partial(jax.jit, static_argnames="ridge")
def of_outputs(outputs: Moments, inputs: Moments, ridge: float) -> Moments:
    """Inverses of tau (S + ridge s I) / c, with S the second moment of the
    gradients of a matrix's outputs, s its mean eigenvalue, tau that of the inputs and c
    the mean of tau s: what the curvature of a layer is beside the others'.

    With the factors of the inputs, A / tau + ridge I, they are Kronecker factors of the
    Fisher information (Martens and Grosse 2015, arXiv 1503.05671). The ridge is large
    enough for an inverse in float32; a product with it takes half of the operations of two
    triangular solves, and a CPU far less time.

    Args:
      outputs: see `output_moments.second_moments`, [layers, outputs, outputs].
      inputs: see `moments.second_moments`, of the same text.
      ridge: relative to s.
    """
    tau = {kind: _mean_eigenvalue(m) for kind, m in inputs.items()}
    own = {name: _mean_eigenvalue(m) for name, m in outputs.items()}
    # A layer whose outputs nothing depends on would move without bound.
    own = {name: jnp.maximum(s, LEAST * s.mean()) for name, s in own.items()}
    of = {name: tau[MATRICES[name].statistic] for name in outputs}
    c = jnp.stack([(of[name] * own[name]).mean() for name in outputs]).mean()

    def factor(moment_YY, s, tau):
        eye = jnp.eye(len(moment_YY))
        lower_YY = cholesky.cholesky((tau / c) * (moment_YY + ridge * s * eye))
        return cholesky.solve(lower_YY, eye)

    found = {
        name: over_layers(factor, moment, own[name], of[name])
        for name, moment in outputs.items()
    }
    return sharding.constrain(found)


def _mean_eigenvalue(moments: jax.Array) -> jax.Array:
    """Of each layer's [layers, d, d]."""
    mean = jnp.trace(moments, axis1=1, axis2=2) / moments.shape[-1]
    return jnp.maximum(mean, 1e-30)


def identity(matrices: Matrices, outputs: bool = False) -> Factors:
    """Factors that leave matrices as they are.

    Args:
      outputs: whether there are factors of the outputs too.
    """
    shapes = {MATRICES[name].statistic: m.shape[:2] for name, m in matrices.items()}
    of_outputs = {name: (len(m), m.shape[2]) for name, m in matrices.items()}
    eyes = lambda of: {
        kind: jnp.tile(jnp.eye(width), (layers, 1, 1))
        for kind, (layers, width) in of.items()
    }
    return Factors(eyes(shapes), eyes(of_outputs) if outputs else {})


def of_each(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    factors: Factors,
    matrices: Matrices,
) -> Matrices:
    """`function(L, M)` of each layer of every matrix and the factor of its inputs.

    A whole layer lies on one device while the function runs, so that a function of
    several solves and products exchanges nothing between them.

    Args:
      function: (L [inputs, inputs], M [inputs, outputs]) -> [inputs, outputs].
      factors: of the inputs of all `matrices`.
      matrices: [layers, inputs, outputs] each, as they are sharded.
    """
    return {
        name: over_layers(function, factors.lower[MATRICES[name].statistic], matrix)
        for name, matrix in matrices.items()
    }


def solve(factors: Factors, matrices: Matrices) -> Matrices:
    """(A / tau + ridge I)^-1 M of every matrix."""
    return of_each(cholesky.solve, factors, matrices)


def solve_outputs(factors: Factors, matrices: Matrices) -> Matrices:
    """M (tau (S + ridge s I) / c)^-1 of every matrix; see `of_outputs`."""
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return {
        name: over_layers(product, matrix, factors.outputs[name])
        for name, matrix in matrices.items()
    }
