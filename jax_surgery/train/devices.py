# SPDX-License-Identifier: Apache-2.0
"""A run on its devices: the mesh, models on it, and rows of a batch."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream
from jax_surgery.models.compute import DEFAULT_COMPUTE, Compute
from jax_surgery.models.model import Model
from jax_surgery.models.trainable import Trainable
from jax_surgery.parallel import mesh as meshes


@contextlib.contextmanager
def on_mesh(shape: meshes.MeshShape) -> Iterator[jax.sharding.Mesh]:
    """Runs what is inside on a mesh over all devices.

    Raises:
      ValueError: see `mesh.resolve`.
    """
    mesh = meshes.make_mesh(shape)
    if mesh.size > 1:
        sizes = " x ".join(
            f"{name} {size}" for name, size in meshes.sizes(mesh).items()
        )
        print(
            f"mesh: {sizes} on {mesh.size} x {mesh.devices.flat[0].device_kind}, "
            f"{jax.process_count()} processes"
        )
    with jax.set_mesh(mesh):
        yield mesh


def storage_dtype(
    path: tuple[str, ...], compute: Compute, moving: Trainable | None
) -> str | None:
    """The dtype that a parameter is held in; None keeps the files' own.

    What a run changes is held in float32, so that small steps are not rounded away.
    Everything else is only read, in the compute dtype: where that is bfloat16, a file
    in bfloat16 is read without loss as it is, in half the memory.

    Args:
      path: of the parameter in the model's tree, e.g. ("layers", "mlp", "up", "kernel").
      compute: its dtype decides.
      moving: what the run changes; None is nothing.
    """
    if compute.dtype != "bfloat16":
        return "float32"
    if moving is None:
        return None
    return "float32" if moving.moves(path) else None


def load_model(
    source: str,
    compute: Compute = DEFAULT_COMPUTE,
    moving: Trainable | None = None,
    tokenizer: Any = None,
    context: int = 0,
) -> Model:
    """A checkpoint as a model to train, on the mesh that is set.

    Args:
      source: directory in Hugging Face format, or hub name.
      compute: how the model will be run.
      moving: what the run will change; None is nothing of it, as with low-rank deltas
        beside it (see `storage_dtype`).
      tokenizer: the checkpoint's where it is loaded already; None loads it.
      context: tokens of the longest row (see `hf_weights.load`).

    Raises:
      FileNotFoundError, ValueError: see `hf_weights.load_model`.
    """
    dtype = lambda path: storage_dtype(path, compute, moving)
    return hf_weights.load(source, compute, dtype, tokenizer, context)


def load(
    source: str, compute: Compute, tokenizer: Any = None, context: int = 0
) -> Model:
    """A checkpoint as a model to run, not to train, on the mesh that is set.

    Its weights are loaded in the dtype that the forward pass computes in: float32 ones
    would be cast to it anyway, and take twice the memory beside bfloat16.

    Args:
      source: directory in Hugging Face format, or hub name.
      tokenizer: the checkpoint's where it is loaded already; None loads it.
      context: tokens of the longest row (see `hf_weights.load`).

    Raises:
      FileNotFoundError, ValueError: see `load_model`.
    """
    return hf_weights.load(source, compute, compute.dtype, tokenizer, context)


def role_rows(rows: dict[str, int], accumulate: int = 1) -> RoleRows:
    """A batch's rows by role, each filled up so that every device has as many.

    Rows that are filled in are empty: they have no weight in any term.

    Raises:
      ValueError: a role's rows do not divide into `accumulate` micro-batches.
    """
    shards = meshes.axis_size(*meshes.ROWS)
    full = {}
    for role in ROLES:
        wanted = rows.get(role, 0)
        if wanted % accumulate:
            below = wanted // accumulate * accumulate
            near = [n for n in (below, below + accumulate) if n]
            raise ValueError(
                f"config.data.rows_{role}={wanted} does not divide into "
                f"config.accumulate={accumulate} micro-batches; nearest values that "
                f"work: {', '.join(map(str, near))}."
            )
        full[role] = meshes.round_rows(wanted, accumulate)
    return RoleRows(*(full[role] for role in ROLES), shards=shards)


def say_filled(wanted: dict[str, int], rows: RoleRows) -> None:
    """Says which roles have empty rows, the same once.

    Args:
      wanted: rows of text of a batch, by role.
      rows: the batch's (see `role_rows`).
    """
    for role, count in wanted.items():
        if (full := getattr(rows, role)) > count:
            _say_filled(role, count, full, rows.shards)


@functools.cache
def _say_filled(role: str, wanted: int, full: int, shards: int) -> None:
    print(
        f"rows_{role}={wanted} is filled up with empty rows to {full}, so that each of "
        f"{shards} devices has as many in every micro-batch; {full} rows of text would "
        "take the same time"
    )


def batch_stream(
    packers: dict[str, Packer],
    wanted: dict[str, int],
    rows: RoleRows,
    seed: int,
    weights: Mapping[str, Sequence[float]] | None = None,
) -> BatchStream:
    """The stream of a run's batches; this process' rows of each.

    Args:
      packers: by role.
      wanted: rows of text of a batch, by role.
      rows: the batch's (see `role_rows`).
      seed: of the order.
      weights: of the streams of a role that has some.
    """
    say_filled(wanted, rows)
    return BatchStream(
        packers,
        wanted,
        seed,
        layout=rows,
        here=meshes.rows_here(rows.total),
        weights=weights,
    )
