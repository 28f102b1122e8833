# SPDX-License-Identifier: Apache-2.0
"""A run on its devices: the mesh, models on it, and rows of a batch."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_names import ROLES
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream
from jax_surgery.models import llama, sharding
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes


@contextlib.contextmanager
def on_mesh(shape: meshes.MeshShape) -> Iterator[jax.sharding.Mesh]:
    """Runs what is inside on a mesh over all devices.

    Raises:
      ValueError: see `mesh.resolve`.
    """
    mesh = meshes.make_mesh(shape)
    if mesh.size > 1:
        sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
        print(
            f"mesh: {sizes} on {mesh.size} x {mesh.devices.flat[0].device_kind}, "
            f"{jax.process_count()} processes"
        )
    with jax.set_mesh(mesh):
        yield mesh


def parameter_shardings(config: ModelConfig) -> Any:
    """Where a model's parameters lie on the mesh that is set; None without one.

    Raises:
      ValueError: a dimension that does not divide over the mesh.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return None
    params = llama.abstract_params(config)
    sharding.check(params, mesh.shape)
    return sharding.shardings(params, mesh)


def load_model(source: str, dtype: str | None = "float32") -> tuple[Any, ModelConfig]:
    """A checkpoint's parameters on the mesh that is set, and its architecture.

    Raises:
      FileNotFoundError, ValueError: see `hf_weights.load_model` and
        `parameter_shardings`.
    """
    on_mesh = None if jax.sharding.get_mesh().empty else parameter_shardings
    return hf_weights.load_model(source, dtype, on_mesh)


def load(source: str, compute: Compute) -> Model:
    """A checkpoint as a model to run, not to train, on the mesh that is set.

    Its weights are loaded in the dtype that the forward pass computes in: float32 ones
    would be cast to it anyway, and take twice the memory beside bfloat16.

    Args:
      source: directory in Hugging Face format, or hub name.

    Raises:
      FileNotFoundError, ValueError: see `load_model`.
    """
    tokenizer = hf_weights.load_tokenizer(source)
    params, config = load_model(source, compute.dtype)
    return Model(params, config, tokenizer, compute, source)


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
        if full[role] > wanted:
            print(
                f"rows_{role}={wanted} is filled up with empty rows to {full[role]}, a "
                f"multiple of {shards} devices x {accumulate} micro-batches; as many "
                "rows of text would cost no more"
            )
    return RoleRows(*(full[role] for role in ROLES), shards=shards)


def batch_stream(
    packers: dict[str, Packer], wanted: dict[str, int], rows: RoleRows, seed: int
) -> BatchStream:
    """The stream of a run's batches; this process' rows of each.

    Args:
      packers: by role.
      wanted: rows of text of a batch, by role.
      rows: the batch's (see `role_rows`).
      seed: of the order.
    """
    return BatchStream(
        packers,
        wanted,
        seed,
        layout=rows,
        here=meshes.rows_here(rows.total),
    )
