# SPDX-License-Identifier: Apache-2.0
"""Weights where they are used: gathered along `fsdp`, with their gradients scattered.

How each parameter lies on the mesh is said by the layout table (`models.layout`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from jax_surgery.parallel import mesh as meshes


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather(weight: jax.Array, spec: tuple[str | None, ...], dtype: str) -> jax.Array:
    """The weight in `dtype`, whole along `fsdp`, where it is used.

    It is converted before it is gathered, so that bfloat16 moves half the bytes. The
    gradient is reduce-scattered: by default the transpose of a gather puts it on
    every device and all of it is all-reduced. Measured by configs/plan.py (llama2_7b on
    v5e:4x4): a chip sends 13.8 GB of gradients per step, and 25.9 GB without this
    derivative.

    Args:
      weight: laid out as `spec`.
      spec: of the weight on the mesh.
      dtype: of the products.
    """
    return _gather_forward(weight, spec, dtype)[0]


def _gather_forward(weight, spec, dtype):
    part = meshes.constrain(weight.astype(dtype), *spec)
    # An array without values carries the dtype to the backward pass.
    kind = jnp.zeros((0,), weight.dtype)
    whole = (None if axis == "fsdp" else axis for axis in spec)
    return meshes.constrain(part, *whole), kind


def _gather_backward(spec, dtype, kind, cotangent):
    del dtype
    # One axis of the mesh after the other; see `meshes.MOST_ALONG_ONE_AXIS`.
    for axes in (meshes.FSDP[:1], meshes.FSDP):
        parts = (axes if axis == "fsdp" else axis for axis in spec)
        cotangent = meshes.constrain(cotangent, *parts)
    return (cotangent.astype(kind.dtype),)


gather.defvjp(_gather_forward, _gather_backward)


def copies(weight: jax.Array, spec: tuple[str | None, ...], dtype: str) -> jax.Array:
    """A whole copy of a weight for each device that rows are split over, [S, ...].

    For computations under `shard_map` (`over_rows`): each device adds to the gradient
    of its own copy as often as it likes, and the sum over devices is made once, by one
    reduce-scatter. S is 1 without a mesh.

    Args:
      weight: laid out as `spec`.
      spec: of the weight on the mesh; `tp` stays as it is.
      dtype: of the copies.
    """
    if meshes.current() is None:
        return weight.astype(dtype)[None]
    axis = tuple(spec).index("fsdp")
    run = jax.shard_map(
        lambda part: _collect(part, axis)[None],
        in_specs=meshes.spec(*(name if name == "fsdp" else None for name in spec)),
        out_specs=P(meshes.ROWS),
        axis_names=set(meshes.ROWS),
        check_vma=False,
    )
    return run(meshes.constrain(weight.astype(dtype), *spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _collect(part: jax.Array, axis: int) -> jax.Array:
    if jax.lax.axis_size(meshes.FSDP) == 1:
        return part  # XLA on CPU would copy it
    return jax.lax.all_gather(part, meshes.FSDP, axis=axis, tiled=True)


def _collect_backward(axis, _, cotangent):
    # The compiler makes of a reduce-scatter of this shape an all-reduce of twice the
    # bytes. Parts are exchanged instead, and summed here, in float32. Measured by
    # configs/plan.py (llama2_7b on v5e:4x4): 0.26 GB per step for the head's gradient,
    # and 0.52 GB with the transpose that JAX makes itself.
    devices = jax.lax.axis_size(meshes.FSDP)
    shape = cotangent.shape
    split = (*shape[:axis], devices, shape[axis] // devices, *shape[axis + 1 :])
    mine = jax.lax.all_to_all(cotangent.reshape(split), meshes.FSDP, axis, axis)
    total = mine.astype(jnp.float32).sum(axis).astype(cotangent.dtype)
    # `shard_map` itself sums over the copies of the model.
    return (total,)


_collect.defvjp(lambda part, axis: (_collect(part, axis), None), _collect_backward)


def over_rows(function: Any) -> Any:
    """The function, run by each device on its own rows; `tp` is left to the compiler.

    All arguments' and results' first axes are split over the devices as rows are.
    """
    if meshes.current() is None:
        return function
    return jax.shard_map(
        function,
        in_specs=P(meshes.ROWS),
        out_specs=P(meshes.ROWS),
        axis_names=set(meshes.ROWS),
        check_vma=False,
    )
