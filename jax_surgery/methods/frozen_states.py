# SPDX-License-Identifier: Apache-2.0
"""What a run that descends computes once, since nothing changes it: what the frozen model
says of the texts, and what the layers below the first that moves make of them.

Both are on disk and looked up by the token's place in its corpus
(`train.reference_cache`), where `config.reference` is "cached".
"""

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jax_surgery.data.batch import OF_ROLE, Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.data.stream import one_pass
from jax_surgery.methods.reference import Reading
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import checksums, reference_cache
from jax_surgery.train.reference_cache import ReferenceCache

ROWS = 8  # of a forward pass


@dataclasses.dataclass(frozen=True, eq=False)
class Lower:
    """What the frozen lower layers make of the texts of a role.

    Attributes:
      cache: [tokens, D].
      beginning: of the tokens that all rows begin with, [tokens, D].
    """

    cache: ReferenceCache
    beginning: np.ndarray

    def gather(self, token_index_BT: np.ndarray) -> np.ndarray:
        """Of the tokens of packed rows, [B, T, D]; 0 on padding."""
        states_BTD = self.cache.gather(token_index_BT)
        states_BTD[:, : len(self.beginning)] = self.beginning
        return states_BTD


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenStates:
    """What is known of the texts; {} where it is computed at each step.

    Attributes:
      reference: what the loss reads of the frozen model, by field of a batch.
      lower: what enters the first layer that moves, by role that has rows.
    """

    reference: Mapping[str, ReferenceCache]
    lower: Mapping[str, Lower]

    def fields(self, batch: Batch, rows: RoleRows) -> dict[str, Any]:
        """The fields of a batch that hold them, on the devices.

        Args:
          batch: on the host, of this process' rows.
        """
        index_BT, found = np.asarray(batch.token_index_BT), {}
        for field, cache in self.reference.items():
            role = OF_ROLE[field]
            values = cache.gather(rows.take(index_BT, role))
            found[field] = meshes.place_rows(values, getattr(rows, role))
        if not self.lower:
            return found
        parts = {
            role: lower.gather(index_BT[rows.holds(role, len(index_BT))])
            for role, lower in self.lower.items()
        }
        some = next(iter(parts.values()))
        whole_BTD = np.zeros((*index_BT.shape, some.shape[-1]), some.dtype)
        for role, states in parts.items():
            whole_BTD[rows.holds(role, len(index_BT))] = states
        return found | {"lower_BTD": meshes.place_rows(whole_BTD, rows.total)}


def of_run(
    model: Model,
    texts: RoleTexts,
    settings: SurgerySettings,
    rows: RoleRows,
    directory: str,
) -> FrozenStates:
    """The states of a run, made or opened; none where its reference is live.

    Args:
      rows: of a batch.
      directory: of the run.
    """
    if settings.reference == "live":
        return FrozenStates({}, {})
    readings = settings.loss.readings(rows)
    first = settings.trainable(model.config).first_layer
    if not readings and not first:
        return FrozenStates({}, {})
    model_hash = checksums.of_model(model.params, model.config)

    def cache(role: str, name: str, reading: Reading, lower: Lower | None = None):
        of = (model_hash, texts.packers[role], name, reading, directory)
        return _cache(model, *of, lower, first)

    lower = {}
    if first:
        # The output of the layer below it; "retain" is what reads states.
        below = Reading("retain", first - 1)
        lower = {
            role: Lower(
                cache(role, f"reference-lower-{role}", below),
                _of_beginning(model, texts.packers[role], below),
            )
            for role in rows.present
        }
    names = {"retain": "reference"}
    reference = {
        one.field: cache(
            role, names.get(role, f"reference-{role}"), one, lower.get(role)
        )
        for role, one in readings.items()
    }
    return FrozenStates(reference, lower)


def _of_beginning(model: Model, packer: Packer, reading: Reading) -> np.ndarray:
    """The states of the tokens that all rows begin with, [tokens, D]."""
    size, rows = len(packer.beginning), meshes.round_rows(1)
    if not size:
        return np.zeros((0, model.config.hidden_size))
    batch = next(one_pass(packer.pack(most=rows), rows)).for_devices()
    return np.asarray(_read(model, batch, reading, 0))[0, :size]


def _read(model: Model, batch: Batch, reading: Reading, first: int) -> Any:
    """What is read of rows, on the host; `first` as `Reading.read` has it."""
    of = (model.params, model.config, batch, model.compute)
    return meshes.fetch(_compiled(reading, *of, first))


# Compiled once for the texts of all roles.
_compiled = jax.jit(Reading.read, static_argnums=(0, 2, 4, 5))


def folder(directory: str, key: str, name: str) -> str:
    """Where this process keeps a cache, a local folder.

    Each process has one of its own, of all tokens: which rows it gets varies. Beside
    a workdir on gs:// it lies in the machine's folder for temporary files.
    """
    if jax.process_count() > 1:
        name = f"{name}-{jax.process_index()}"
    if "://" in directory:
        local = pathlib.Path(tempfile.gettempdir()) / "jax_surgery" / key[:16]
        print(f"the reference cache is in {local}")
        return str(local / name)
    return str(pathlib.Path(directory) / name)


def _cache(
    model: Model,
    model_hash: str,
    packer: Packer,
    name: str,
    reading: Reading,
    directory: str,
    lower: Lower | None,
    first: int,
) -> ReferenceCache:
    """Made or opened.

    Args:
      lower: what enters layer `first` of this text, if that is there already.
    """
    config, compute = model.config, model.compute
    key = reference_cache.fingerprint(model_hash, packer, compute) + reading.key
    place = folder(directory, key, name)
    cache = reference_cache.open_on_all(place, key)
    if cache is not None:
        return cache

    def of_batch(batch: Batch) -> Any:
        placed = batch.for_devices()
        if lower:
            placed = placed.replace(lower_BTD=lower.gather(batch.token_index_BT))
        return _read(model, placed, reading, first if lower else 0)

    return reference_cache.create_cache(
        place,
        key,
        packer,
        of_batch,
        math.prod(reading.shape(config)),
        reading.dtype(compute),
        meshes.round_rows(ROWS),
    )
