# SPDX-License-Identifier: Apache-2.0
"""How parameters and training states lie on the mesh, by the layout table.

A leaf is recognised by the end of its path, so an optimizer's moments are split like
their parameters.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_surgery.models import architectures, decoder, layout
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import mesh as meshes


def _names(path: Any) -> tuple[str, ...]:
    """Keys of a path in a tree; numbers of tuples and fields' dots are left out."""
    keys = (getattr(k, "key", getattr(k, "name", None)) for k in path)
    return tuple(str(key) for key in keys if key is not None)


def _row(path: Any) -> layout.Row | None:
    names, rows = _names(path), architectures.rows()
    ends = (names[start:] for start in range(len(names)))
    return next((rows[end] for end in ends if end in rows), None)


def specs(tree: Any, fsdp: int) -> Any:
    """The `PartitionSpec` of every leaf of parameters or of a training state, as the
    layout table says it (`meshes.spec` gives the mesh's own).

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
        entry = _row(path)
        if entry is not None and len(entry.spec) == len(leaf.shape):
            return entry.spec
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
    found = specs(tree, meshes.sizes(mesh)["fsdp"])
    return jax.tree.map(lambda spec: NamedSharding(mesh, meshes.spec(*spec)), found)


def check(params: Any, sizes: Mapping[str, int]) -> None:
    """Raises ValueError where a parameter's axis does not divide over the mesh.

    Args:
      params: shapes of the parameters.
      sizes: devices along each axis of the mesh, see `meshes.sizes`.
    """
    problems = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        entry = _row(path)
        if entry is None:
            raise ValueError(
                f"parameter {'/'.join(_names(path))} is in no architecture's layout "
                "(see models/layout.py); add a row for it there."
            )
        for letter, size, axis in zip(entry.axes, leaf.shape, entry.spec, strict=True):
            if axis and size % sizes[axis]:
                problems[letter, axis] = (
                    f"{layout.FIELDS[letter]}={size} does not divide over config.mesh.{axis}"
                    f"={sizes[axis]}; nearest values that work: "
                    f"{meshes.nearest_divisors(size, sizes[axis])}."
                )
    if problems:
        raise ValueError("\n  ".join(problems.values()))


def abstract(tree: Any, mesh: Mesh) -> Any:
    """Shapes with the shardings of `specs`, for programs that are only compiled."""

    def of(leaf, place):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    return jax.tree.map(of, tree, shardings(tree, mesh))


def parameter_shardings(config: ModelConfig) -> Any:
    """Where a model's parameters lie on the mesh that is set; None without one.

    Raises:
      ValueError: a dimension that does not divide over the mesh.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return None
    params = decoder.abstract_params(config)
    check(params, meshes.sizes(mesh))
    return shardings(params, mesh)


def place(tree: Any) -> Any:
    """Parameters or a state on the mesh that is set; as they are without one."""
    mesh = jax.sharding.get_mesh()
    return tree if mesh.empty else jax.device_put(tree, shardings(tree, mesh))


def constrain(tree: Any) -> Any:
    """The tree inside a computation, laid out as `specs` says."""
    if meshes.current() is None:
        return tree
    found = specs(tree, meshes.axis_size("fsdp"))
    return jax.tree.map(lambda leaf, spec: meshes.constrain(leaf, *spec), tree, found)
