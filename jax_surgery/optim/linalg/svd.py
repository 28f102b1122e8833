# SPDX-License-Identifier: Apache-2.0
"""Singular value decompositions of stacks of matrices as they lie on the mesh.

Layers are shared out: every device decomposes whole matrices of some of them, so that
no decomposition waits for another. Wide matrices are decomposed from a random sketch
(Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1): products with the matrix run on
it as it is sharded, and only thin ones are factored; an exact decomposition of a
4096-wide matrix does not finish compiling for TPUs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jax_surgery.parallel import mesh as meshes

EXACT_WIDTH = (
    256  # of the smaller side; wider ones take TPU programs minutes to compile
)
OVERSAMPLE = 16  # columns of a sketch beyond its rank
POWER_ITERATIONS = 2
SMALL_PART = 4  # a sketch of at most 1 / 4 of a small matrix' width pays
AXES = ("data", "fsdp", "tp")

# In float32 everywhere: accelerators round to half of its digits where not told.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class SVD(NamedTuple):
    """Of each layer, largest singular values first.

    Attributes:
      u_LXK, v_LYK: orthonormal columns.
      s_LK: singular values.
    """

    u_LXK: jax.Array
    s_LK: jax.Array
    v_LYK: jax.Array

    def truncated(self, rank: int) -> "SVD":
        """The `rank` largest."""
        return SVD(
            self.u_LXK[..., :rank], self.s_LK[..., :rank], self.v_LYK[..., :rank]
        )

    def product(self) -> jax.Array:
        """The matrices that it makes, [L, X, Y]."""
        return einsum("LXK,LYK->LXY", self.u_LXK * self.s_LK[:, None], self.v_LYK)


def over_layers(function: Any, *arrays: jax.Array) -> Any:
    """The function of one layer's arrays, run on each layer by one of the devices.

    As many layers as there are devices take a turn, so that no device holds more than
    one whole layer; before and after it matrices lie split over all of them.

    Args:
      function: (arrays without their first axis) -> array or tuple of them.
      arrays: [L, ...]; L need not divide.
    """
    if meshes.current() is None:
        return jax.lax.map(lambda parts: function(*parts), arrays)
    layers, devices = len(arrays[0]), meshes.axis_size(*AXES)
    run = jax.shard_map(
        lambda *parts: jax.lax.map(lambda each: function(*each), parts),
        in_specs=P(AXES),
        out_specs=P(AXES),
        axis_names=set(AXES),
        check_vma=False,
    )
    if layers <= devices:
        # The first layer again: zeros have no decomposition that is unique.
        fill = devices - layers
        full = [jnp.concatenate([a, jnp.repeat(a[:1], fill, 0)]) for a in arrays]
        found = run(*map(_split, full))
        return jax.tree.map(lambda a: _split(a)[:layers], found)

    def turn(number, found):
        # The last turn does some layers again where they do not divide.
        start = jnp.minimum(number * devices, layers - devices)
        # Split, or the compiler gathers all layers to take some.
        here = [_split(jax.lax.dynamic_slice_in_dim(a, start, devices)) for a in arrays]
        return jax.tree.map(
            lambda all_, new: jax.lax.dynamic_update_slice_in_dim(
                all_, _split(new), start, 0
            ),
            found,
            run(*here),
        )

    shapes = jax.eval_shape(function, *(a[0] for a in arrays))
    empty = jax.tree.map(
        lambda s: _split(jnp.zeros((layers, *s.shape), s.dtype)), shapes
    )
    return jax.lax.fori_loop(0, -(-layers // devices), turn, empty)


def _split(array_L: jax.Array) -> jax.Array:
    """Split over all devices along an axis after the layers' that divides, if any.

    Between this and whole layers on each device parts are exchanged; a copy on every
    device of all of them would be made for any other split.
    """
    devices = meshes.axis_size(*AXES)
    for axis in range(1, array_L.ndim):
        if array_L.shape[axis] % devices == 0:
            return meshes.constrain(array_L, *[None] * axis, AXES)
    return array_L


def _exact(matrix_XY):
    u, s, vt = jnp.linalg.svd(matrix_XY, full_matrices=False)
    return u, s, vt.T


def _orthonormal(matrix_LXK):
    return over_layers(lambda m: jnp.linalg.qr(m)[0], matrix_LXK)


def exact_svd(matrix_LXY: jax.Array) -> SVD:
    """All singular vectors of every layer's matrix, float32."""
    return SVD(*over_layers(_exact, matrix_LXY.astype(jnp.float32)))


def randomised_svd(
    matrix_LXY: jax.Array,
    rank: int,
    *,
    seed: int = 0,
    oversample: int = OVERSAMPLE,
    iterations: int = POWER_ITERATIONS,
) -> SVD:
    """The `rank` largest singular values and vectors, from a random sketch.

    The error of the product is within a small factor of the best possible one of this
    rank (Halko et al., theorem 10.6 with `iterations` = 0, better with more).

    Args:
      matrix_LXY: as it is sharded.
      rank: K.
      seed: of the sketch.
      oversample: columns of the sketch beyond `rank`.
      iterations: products with M M^T that sharpen the sketch.
    """
    matrix_LXY = matrix_LXY.astype(jnp.float32)
    layers, rows, cols = matrix_LXY.shape
    width = min(rank + oversample, rows, cols)
    sketch_LYK = jax.random.normal(jax.random.key(seed), (layers, cols, width))
    range_LXK = _orthonormal(einsum("LXY,LYK->LXK", matrix_LXY, sketch_LYK))
    for _ in range(iterations):
        back_LYK = _orthonormal(einsum("LXY,LXK->LYK", matrix_LXY, range_LXK))
        range_LXK = _orthonormal(einsum("LXY,LYK->LXK", matrix_LXY, back_LYK))
    small_LYK = einsum("LXY,LXK->LYK", matrix_LXY, range_LXK)

    def of_small(small_YK, range_XK):
        # M ~ range small^T; small = q r, and r is K x K.
        q, r = jnp.linalg.qr(small_YK)
        u, s, vt = jnp.linalg.svd(r.T)
        return einsum("XK,KJ->XJ", range_XK, u), s, einsum("YK,JK->YJ", q, vt)

    return SVD(*over_layers(of_small, small_LYK, range_LXK)).truncated(rank)


def svd(matrix_LXY: jax.Array, rank: int, seed: int = 0) -> SVD:
    """The `rank` largest singular values and vectors.

    Exact where matrices are small, unless the sketch would be a small part even of
    those, which is quicker.
    """
    width = min(matrix_LXY.shape[1:])
    if width <= EXACT_WIDTH and SMALL_PART * (rank + OVERSAMPLE) > width:
        return exact_svd(matrix_LXY).truncated(rank)
    return randomised_svd(matrix_LXY, rank, seed=seed)


@functools.partial(jax.jit, static_argnums=1)
def singular_values(matrix_LXY: jax.Array, most: int = 64) -> jax.Array:
    """The largest singular values of every layer's matrix, [L, K], K at most `most`."""
    return svd(matrix_LXY, min(most, *matrix_LXY.shape[1:])).s_LK
