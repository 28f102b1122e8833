# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices, and how computations refer to it.

Axes: `data` (copies of the model; on several TPU slices it spans them, since it needs
the least traffic), `fsdp` (each device holds a part of every weight and gathers it
where it is used) and `tp` (heads, MLP and vocabulary are split). Rows of a batch are
split over `data` and `fsdp`. The mesh itself has two axes for `fsdp` (`FSDP`), of which the
inner one has more than one device on large slices alone; `spec` names them where others
say `fsdp`. A run sets the mesh once (`jax.set_mesh`); without one everything below leaves
arrays as they are.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_surgery.config import at_least

FSDP = ("fsdp_outer", "fsdp_inner")
AXES = ("data", *FSDP, "tp")
ROWS = ("data", *FSDP)  # the axes that rows of a batch are split over
# Over more devices along one axis the compiler for TPUs (libtpu 0.0.52) makes of a
# gradient's reduce-scatter an all-reduce of all of it, which moves twice the bytes. Over
# two axes, one after the other (`partition.gather`), it does not.
MOST_ALONG_ONE_AXIS: int = 32


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis.

    Attributes:
      data: 0 takes one for each TPU slice.
      fsdp: 0 takes all devices that remain.
      tp: more than 1 where one device cannot hold a layer's activations of one row.
    """

    data: int = 0
    fsdp: int = 0
    tp: int = 1

    def __post_init__(self):
        at_least(0, self, "config.mesh", "data", "fsdp")
        at_least(1, self, "config.mesh", "tp")


def nearest_divisors(number: int, wanted: int, count: int = 3) -> str:
    """The divisors of a number that lie nearest to another, as text."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    near = sorted(divisors, key=lambda d: (abs(d - wanted), d))
    return ", ".join(map(str, sorted(near[:count])))


def resolve(shape: MeshShape, devices: int, slices: int = 1) -> MeshShape:
    """The shape with its zeros filled in.

    Raises:
      ValueError: the axes do not multiply to the number of devices, or `data` is not
        a multiple of the slices.
    """
    data = shape.data or slices
    if data % slices:
        raise ValueError(
            f"config.mesh.data={data} must be a multiple of the {slices} TPU slices: "
            f"the data axis spans them. Use {slices} or {2 * slices}."
        )
    for name, size, of in (
        ("data", data, devices),
        ("tp", shape.tp, devices // data if devices % data == 0 else devices),
    ):
        if of % size:
            raise ValueError(
                f"config.mesh.{name}={size} does not divide {of} devices; nearest "
                f"values that work: {nearest_divisors(of, size)}."
            )
    rest = devices // data // shape.tp
    if shape.fsdp not in (0, rest):
        raise ValueError(
            f"config.mesh.fsdp={shape.fsdp}: with data={data} and tp={shape.tp} on "
            f"{devices} devices it is {rest}; use {rest}, or 0 for all "
            "devices that remain."
        )
    return MeshShape(data, rest, shape.tp)


def two_axes(fsdp: int, devices: Sequence[Any]) -> tuple[int, int]:
    """The sizes of the axes of `FSDP`.

    The inner one is the last side of the slice's grid of chips where that divides, so
    that both are whole sides; elsewhere the divisor that makes them most alike.
    """
    if fsdp <= MOST_ALONG_ONE_AXIS:
        return fsdp, 1
    places = np.array([getattr(device, "coords", ()) for device in devices])
    sides = [len(np.unique(side)) for side in places.T]
    last = next((side for side in reversed(sides) if side > 1), fsdp)
    divisors = (d for d in range(1, math.isqrt(fsdp) + 1) if fsdp % d == 0)
    inner = last if last < fsdp and fsdp % last == 0 else max(divisors)
    return fsdp // inner, inner


def make_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over the devices (None: all), along their physical network.

    Raises:
      ValueError: see `resolve`.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    shape = resolve(shape, len(devices), slices)
    sizes = (shape.data // slices, *two_axes(shape.fsdp, devices), shape.tp)
    create = mesh_utils.create_device_mesh
    if slices > 1:
        create = functools.partial(
            mesh_utils.create_hybrid_device_mesh, dcn_mesh_shape=(slices, 1, 1, 1)
        )
    # Split axes let tp take half of a torus' side.
    grid = create(sizes, devices=devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def current() -> Any:
    """The mesh that is set, abstract while tracing; None without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def spec(*axes: Any) -> P:
    """A `PartitionSpec` with the axes that the mesh has.

    Args:
      axes: for each axis of an array None, a name ("fsdp" or one of `AXES`), or a tuple of
        names.
    """

    def named(axis: Any) -> Any:
        if axis == "fsdp":
            return FSDP
        if isinstance(axis, tuple):
            return tuple(name for part in axis for name in _listed(named(part)))
        return axis

    return P(*map(named, axes))


def _listed(axis: Any) -> tuple[Any, ...]:
    return axis if isinstance(axis, tuple) else (axis,)


def sizes(mesh: Any) -> dict[str, int]:
    """Devices along `data`, `fsdp` and `tp`."""
    fsdp = math.prod(mesh.shape[name] for name in FSDP)
    return {"data": mesh.shape["data"], "fsdp": fsdp, "tp": mesh.shape["tp"]}


def axis_size(*names: str) -> int:
    """Devices along some axes of the mesh that is set; 1 without one.

    Args:
      names: "fsdp", or of `AXES`.
    """
    if (mesh := current()) is None:
        return 1
    every = dict(mesh.shape) | sizes(mesh)
    return math.prod(every[name] for name in names)


def platform() -> str:
    """The platform of the mesh: "cpu", "gpu" or "tpu". The mesh may be of chips that
    are not attached (a program that is only compiled)."""
    device = getattr(current(), "abstract_device", None)
    name = getattr(device, "platform", None) or jax.default_backend()
    return "gpu" if name in ("cuda", "rocm") else name


def constrain(array: jax.Array, *axes: Any) -> jax.Array:
    """The array, laid out over the mesh as the axes say; see `spec`."""
    if current() is None:
        return array
    return jax.lax.with_sharding_constraint(array, spec(*axes))


def round_rows(rows: int, multiple: int = 1) -> int:
    """The next number of rows that splits evenly, in `multiple` parts each."""
    step = axis_size(*ROWS) * multiple
    return -(-rows // step) * step


def rows_here(rows: int) -> np.ndarray:
    """Which of a batch's rows this process' devices hold, rising."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return np.arange(rows)
    places = NamedSharding(mesh, P(ROWS)).addressable_devices_indices_map((rows,))
    held = [np.arange(rows)[index] for index in places.values()]
    return np.unique(np.concatenate(held))


def place_rows(batch: Any, rows: int) -> Any:
    """A batch on the devices, rows split over them.

    Args:
      batch: a pytree of arrays of the rows that this process holds (`rows_here`), in
        that order.
      rows: of the whole batch, on all processes; a multiple of the devices.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(jax.numpy.asarray, batch)
    sharding = NamedSharding(mesh, P(ROWS))
    shapes = jax.tree.map(lambda array: (rows, *array.shape[1:]), batch)
    return jax.make_array_from_process_local_data(sharding, batch, shapes)


def fetch(array: jax.Array | np.ndarray) -> np.ndarray:
    """The whole array on this host, also where other hosts hold parts of it."""
    on_host = isinstance(array, np.ndarray)
    if on_host or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
