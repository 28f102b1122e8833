# SPDX-License-Identifier: Apache-2.0
"""Functions of one layer's matrix, run on a stack of layers as it lies on the mesh.

Layers are dealt out: every device computes whole matrices of some of them, so that no
decomposition waits for another and none has to be written for sharded matrices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jax_surgery.parallel import mesh as meshes

AXES = meshes.AXES

# float32 everywhere: by default accelerators round products to half of the digits.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


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
