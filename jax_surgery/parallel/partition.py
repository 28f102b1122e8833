# SPDX-License-Identifier: Apache-2.0
"""How parameters lie on the mesh: one table, and the gathering of weights.

Letters: L layers, D model width, N heads, K key-value heads, H head width, F hidden
width of the MLP, V vocabulary, R rank of low-rank deltas. A name is the end of a
parameter's path.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_surgery.parallel import mesh as meshes

TABLE = {
    # name: (axes of the array, which mesh axis splits each)
    ("embedder", "embedding"): ("V D", P("tp", "fsdp")),
    ("attention_norm", "scale"): ("L D", P(None, None)),
    ("attention", "q", "kernel"): ("L D N H", P(None, "fsdp", "tp", None)),
    ("attention", "k", "kernel"): ("L D K H", P(None, "fsdp", "tp", None)),
    ("attention", "v", "kernel"): ("L D K H", P(None, "fsdp", "tp", None)),
    ("attention", "o", "kernel"): ("L N H D", P(None, "tp", None, "fsdp")),
    ("mlp_norm", "scale"): ("L D", P(None, None)),
    ("mlp", "gate", "kernel"): ("L D F", P(None, "fsdp", "tp")),
    ("mlp", "up", "kernel"): ("L D F", P(None, "fsdp", "tp")),
    ("mlp", "down", "kernel"): ("L F D", P(None, "tp", "fsdp")),
    ("final_norm", "scale"): ("D", P(None)),
    ("head", "kernel"): ("D V", P("fsdp", "tp")),
    # Factors of low-rank deltas: their inputs and outputs lie like the matrix' own.
    ("attention", "q", "lora_a"): ("L D R", P(None, "fsdp", None)),
    ("attention", "q", "lora_b"): ("L R N H", P(None, None, "tp", None)),
    ("attention", "k", "lora_a"): ("L D R", P(None, "fsdp", None)),
    ("attention", "k", "lora_b"): ("L R K H", P(None, None, "tp", None)),
    ("attention", "v", "lora_a"): ("L D R", P(None, "fsdp", None)),
    ("attention", "v", "lora_b"): ("L R K H", P(None, None, "tp", None)),
    ("attention", "o", "lora_a"): ("L N H R", P(None, "tp", None, None)),
    ("attention", "o", "lora_b"): ("L R D", P(None, None, "fsdp")),
    ("mlp", "gate", "lora_a"): ("L D R", P(None, "fsdp", None)),
    ("mlp", "gate", "lora_b"): ("L R F", P(None, None, "tp")),
    ("mlp", "up", "lora_a"): ("L D R", P(None, "fsdp", None)),
    ("mlp", "up", "lora_b"): ("L R F", P(None, None, "tp")),
    ("mlp", "down", "lora_a"): ("L F R", P(None, "tp", None)),
    ("mlp", "down", "lora_b"): ("L R D", P(None, None, "fsdp")),
}
FIELDS = {
    "D": "hidden_size",
    "N": "num_heads",
    "K": "num_kv_heads",
    "F": "intermediate_size",
    "V": "vocab_size",
}
# Of one layer, by the matrix' name and what it is of it.
LAYER_SPECS = {
    name[1:]: P(*spec[1:]) for name, (_, spec) in TABLE.items() if len(name) == 3
}
# Of its stack as [layers, inputs, outputs], heads and their width one axis.
STACK_SPECS = {
    name: P(None, *(axis for axis in spec if axis))
    for (name, leaf), spec in LAYER_SPECS.items()
    if leaf == "kernel"
}
HEAD_SPEC = TABLE["head", "kernel"][1]
EMBEDDING_SPEC = TABLE["embedder", "embedding"][1]


def _names(path: Any) -> tuple[str, ...]:
    """Keys of a path in a tree; numbers of tuples and fields' dots are left out."""
    keys = (getattr(k, "key", getattr(k, "name", None)) for k in path)
    return tuple(str(key) for key in keys if key is not None)


def _entry(path: Any) -> tuple[str, P] | None:
    names = _names(path)
    for size in (2, 3):
        if (entry := TABLE.get(names[-size:])) is not None:
            return entry
    return None


def specs(tree: Any, fsdp: int) -> Any:
    """The `PartitionSpec` of every leaf of parameters or of a training state.

    A leaf that ends like a parameter's path and has as many axes lies like it (moments
    of an optimizer do). Other arrays of three axes and more, matrices stacked over
    layers, are split along the first of their other axes that divides; vectors and
    scalars lie whole on every device.

    Args:
      tree: arrays or their shapes.
      fsdp: devices along that axis.

    Raises:
      ValueError: no axis of a stack of matrices divides.
    """

    def spec(path, leaf):
        entry = _entry(path)
        if entry is not None and len(entry[0].split()) == len(leaf.shape):
            return entry[1]
        if len(leaf.shape) < 3:
            return P()
        for axis, size in enumerate(leaf.shape[1:], start=1):
            if size % fsdp == 0:
                return P(*[None] * axis, "fsdp")
        raise ValueError(
            f"{'/'.join(_names(path))} of shape {leaf.shape} does not divide over "
            f"config.mesh.fsdp={fsdp}; nearest values that work: "
            f"{meshes.nearest_divisors(leaf.shape[1], fsdp)}."
        )

    return jax.tree_util.tree_map_with_path(spec, tree)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """`NamedSharding`s of every leaf (see `specs`)."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs(tree, mesh.shape["fsdp"]),
        is_leaf=lambda x: isinstance(x, P),
    )


def check(params: Any, sizes: Mapping[str, int]) -> None:
    """Raises ValueError where a parameter's axis does not divide over the mesh.

    Args:
      params: shapes of the parameters.
      sizes: devices along each axis of the mesh.
    """
    problems = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        entry = _entry(path)
        if entry is None:
            raise ValueError(
                f"parameter {'/'.join(_names(path))} is not in the partition table "
                "(parallel/partition.py); add it there."
            )
        for letter, size, axis in zip(entry[0].split(), leaf.shape, entry[1]):
            if axis and size % sizes[axis]:
                problems[letter, axis] = (
                    f"{FIELDS[letter]}={size} does not divide over config.mesh.{axis}"
                    f"={sizes[axis]}; nearest values that work: "
                    f"{meshes.nearest_divisors(size, sizes[axis])}."
                )
    if problems:
        raise ValueError("\n  ".join(problems.values()))


def abstract(tree: Any, mesh: Mesh) -> Any:
    """Shapes with the shardings of `specs`, for programs that are only compiled."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        tree,
        shardings(tree, mesh),
    )


def place(tree: Any) -> Any:
    """Parameters or a state on the mesh that is set; as they are without one."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return tree
    return jax.tree.map(
        lambda leaf, sharding: (
            leaf
            if getattr(leaf, "sharding", None) == sharding
            else jax.device_put(leaf, sharding)
        ),
        tree,
        shardings(tree, mesh),
    )


def constrain(tree: Any) -> Any:
    """The tree inside a computation, laid out as `specs` says."""
    if meshes.current() is None:
        return tree
    return jax.tree.map(
        lambda leaf, spec: jax.lax.with_sharding_constraint(leaf, spec),
        tree,
        specs(tree, meshes.axis_size("fsdp")),
    )


def _without_fsdp(spec: P) -> tuple:
    return tuple(None if axis == "fsdp" else axis for axis in spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather(weight: jax.Array, spec: P, dtype: str) -> jax.Array:
    """The weight in `dtype`, whole along `fsdp`, where it is used.

    It is converted before it is gathered, so that bfloat16 moves half the bytes. The
    gradient is reduce-scattered: left to itself, the transpose of a gather pins it to
    every device and all of it is all-reduced.

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
    return meshes.constrain(part, *_without_fsdp(spec)), kind


def _gather_backward(spec, dtype, kind, cotangent):
    del dtype
    return (meshes.constrain(cotangent, *spec).astype(kind.dtype),)


gather.defvjp(_gather_forward, _gather_backward)


def copies(weight: jax.Array, spec: P, dtype: str) -> jax.Array:
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
        in_specs=P(*(name if name == "fsdp" else None for name in spec)),
        out_specs=P(meshes.ROWS),
        axis_names=set(meshes.ROWS),
        check_vma=False,
    )
    return run(meshes.constrain(weight.astype(dtype), *spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _collect(part: jax.Array, axis: int) -> jax.Array:
    return jax.lax.all_gather(part, "fsdp", axis=axis, tiled=True)


def _collect_backward(axis, _, cotangent):
    # The compiler makes of a reduce-scatter of this shape an all-reduce of twice the
    # bytes. Parts are exchanged instead, and summed here, in float32.
    devices = jax.lax.axis_size("fsdp")
    shape = cotangent.shape
    split = (*shape[:axis], devices, shape[axis] // devices, *shape[axis + 1 :])
    mine = jax.lax.all_to_all(cotangent.reshape(split), "fsdp", axis, axis)
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


def bytes_per_device(tree: Any, sizes: Mapping[str, int]) -> int:
    """Bytes of a tree of shapes that one device holds.

    Args:
      tree: parameters or a state.
      sizes: devices along each axis of the mesh.
    """
    leaves = zip(
        jax.tree.leaves(tree),
        jax.tree.leaves(specs(tree, sizes["fsdp"]), is_leaf=lambda x: isinstance(x, P)),
        strict=True,
    )
    return sum(
        leaf.size
        * leaf.dtype.itemsize
        // math.prod(sizes[axis] for axis in spec if axis)
        for leaf, spec in leaves
    )
