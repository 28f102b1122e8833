# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's names and layout of tensors, and the conversion from and to ours.

Hugging Face keeps one tensor per layer, matrices as [out, in] with heads merged. Ours are
stacked on a leading layer axis, [in, out...] with heads split. RoPE needs no
permutation: both layouts rotate the two halves of a head.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

from jax_surgery.checkpoints import safetensors_file
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.models import architectures
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import Row
from jax_surgery.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint.

    Attributes:
      row: the row of its parameter.
      layer: index of its layer; None for parameters without layers.
      shape: the parameter's shape without its layer axis.
    """

    row: Row
    layer: int | None
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its name in the checkpoint."""
        return self.row.tensor(self.layer)

    @property
    def path(self) -> tuple[str, ...]:
        """The path of its parameter in the tree."""
        return self.row.path

    @property
    def order(self) -> tuple[int, ...]:
        """Axes of ours in the file's order: a matrix' outputs, then its inputs."""
        axes = tuple(range(len(self.shape)))
        return axes[self.row.inputs :] + axes[: self.row.inputs]

    @property
    def split_shape(self) -> tuple[int, ...]:
        """Shape in the file's order, heads split."""
        return tuple(self.shape[axis] for axis in self.order)

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Shape in the file."""
        if self.row.is_bias:
            return (self.size,)
        if not self.row.inputs:
            return self.shape
        inputs = math.prod(self.shape[: self.row.inputs])
        return (math.prod(self.shape) // inputs, inputs)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def to_file(self, array: Any) -> Any:
        """The tensor of a parameter without layers, or of one layer of it."""
        return array.transpose(self.order).reshape(self.file_shape)

    def from_file(self, array: Any) -> Any:
        """The inverse of `to_file`."""
        return array.reshape(self.split_shape).transpose(np.argsort(self.order))


def leaf(tree: Any, path: tuple[str, ...]) -> Any:
    """What lies at a path of a nested dict."""
    for key in path:
        tree = tree[key]
    return tree


def tensors(config: ModelConfig) -> list[Tensor]:
    """Every tensor of a checkpoint, in the order in which files hold them."""
    rows = architectures.layout_of(config)
    found = [Tensor(row, None, row.shape(config)) for row in rows if not row.stacked]
    for index in range(config.num_layers):
        found += [Tensor(row, index, row.shape(config)) for row in rows if row.stacked]
    return found


def files(
    tensors: list[Tensor], nbytes: Callable[[Tensor], int], limit: float
) -> dict[str, list[Tensor]]:
    """The tensors of each file by its name, of at most `limit` bytes (or one tensor)."""
    import huggingface_hub

    held = {tensor.name: tensor for tensor in tensors}
    split = huggingface_hub.split_state_dict_into_shards_factory(
        held,
        get_storage_size=nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=int(limit),
    )
    names = split.filename_to_tensors.items()
    return {file: [held[name] for name in own] for file, own in names}


def places(tensor: Tensor, mesh: Mesh) -> tuple[Sharding | None, Sharding | None]:
    """Where a tensor's parameter lies on a mesh, and itself with axes as in the file."""
    if mesh.empty:
        return None, None
    axes = tuple(tensor.row.layer_spec)
    own = meshes.spec(*(axes[axis] for axis in tensor.order))
    stored = meshes.spec(*tensor.row.spec)
    return NamedSharding(mesh, stored), NamedSharding(mesh, own)


def convert(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array in a dtype, rounded to the nearest; ValueError where it overflows."""
    try:
        with np.errstate(over="raise"):
            if array.dtype == np.float64:  # versions of ml_dtypes round it differently
                array = array.astype(np.float32)
            found = array.astype(dtype, copy=False)
            if dtype == ml_dtypes.bfloat16 and found is not array:
                _check_infinities(array, found)
    except FloatingPointError as error:
        raise ValueError(
            f"{name} holds numbers that {dtype} cannot represent (its largest is "
            f"{ml_dtypes.finfo(dtype).max}); use "
            f"{'bfloat16 or ' * (dtype == np.float16)}float32."
        ) from error
    return found


def _check_infinities(array: np.ndarray, found: np.ndarray) -> None:
    """Raises FloatingPointError where rounding to bfloat16 made infinities, of which
    ml_dtypes says nothing."""
    infinite = (found.view(np.uint16) & 0x7FFF) == 0x7F80
    if infinite.any() and np.isfinite(array[infinite]).any():
        raise FloatingPointError("overflow")


def read(
    entry: Entry | None, tensor: Tensor, dtype: np.dtype, sharding: Sharding | None
) -> jax.Array:
    """A tensor of a file on the devices, in the file's order with heads split.

    Each range of rows is read once and each part of it cut and converted once, also
    where several devices hold the same. Without an entry it is zeros.
    """
    shape = tensor.split_shape
    if entry is None:
        return jnp.zeros(shape, dtype, device=sharding)
    merged = entry.shape[0] // shape[0]  # rows of the file in one of ours

    @functools.cache
    def rows(start: int, stop: int) -> np.ndarray:
        data = safetensors_file.read_rows(entry, start * merged, stop * merged)
        return data.reshape(stop - start, *shape[1:])

    @functools.cache
    def part(*bounds: tuple[int, int]) -> np.ndarray:
        cut = rows(*bounds[0])[(slice(None), *(slice(*b) for b in bounds[1:]))]
        return np.ascontiguousarray(convert(cut, dtype, tensor.name))

    if sharding is None:
        return jnp.asarray(part(*((0, size) for size in shape)))

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        cuts = index or (slice(None),) * len(shape)
        bounds = (c.indices(size)[:2] for c, size in zip(cuts, shape, strict=True))
        return part(*bounds)

    return jax.make_array_from_callback(shape, sharding, shard, dtype)


@functools.cache
def _put(order: tuple[int, ...], sharding: Sharding | None):
    back = np.argsort(order)

    def put(stacked, part, layer):
        ours = part.transpose(back)
        return jax.lax.dynamic_update_index_in_dim(stacked, ours, layer, 0)

    return jax.jit(put, donate_argnums=0, out_shardings=sharding)


def insert(
    parameter: jax.Array | None,
    part: jax.Array,
    tensor: Tensor,
    layers: int,
    sharding: Sharding | None,
) -> jax.Array:
    """The parameter with a tensor in its place.

    Args:
      parameter: donated; None before its first tensor.
      part: the tensor, `tensor.split_shape`, which lies as `places` says.
      tensor: which one.
      layers: of the model.
      sharding: of the parameter.
    """
    if tensor.layer is None:
        back = np.argsort(tensor.order)
        return jax.jit(lambda part: part.transpose(back), out_shardings=sharding)(part)
    if parameter is None:
        shape, dtype = (layers, *tensor.shape), part.dtype
        parameter = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)()
    return _put(tensor.order, sharding)(parameter, part, np.int32(tensor.layer))
