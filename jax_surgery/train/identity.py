# SPDX-License-Identifier: Apache-2.0
"""What a run reads, by content: a resumed run reads the same as when it began.

The config names files and models; what they hold may have changed since. So the hashes
of all that a run reads lie in its workdir, and a run that finds others does not go on:
its result would be of neither.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import tokens
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import Document
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed
from jax_surgery.storage import files
from jax_surgery.train import checksums

IDENTITY_FILE = "identity.json"
CONFIG = "config"  # what the config's hash is noted as
ORIGIN = "origin"  # the field of a record that says where it stands
SHORT = 12  # hexadecimal digits of a hash that messages show


def of_records(records: Iterable[Any]) -> str:
    """SHA-256 (hex) of records or questions; where they stand does not count.

    Args:
      records: dataclasses of one class.
    """
    records = list(records)
    fields = [f.name for f in dataclasses.fields(records[0])] if records else []
    fields = [name for name in fields if name != ORIGIN]
    return checksums.of_value([[getattr(r, name) for name in fields] for r in records])


def of_probes(probes: Iterable[Probe], documents: Sequence[Document] = ()) -> str:
    """SHA-256 (hex) of what a model is asked, and of text that belongs to it."""
    asked = [
        (
            (probe.group, probe.context, probe.metrics, probe.chance, probe.ends),
            (of_records(probe.questions), of_records(probe.records)),
            tokens.digest(probe.documents),
            *_beside(probe),
        )
        for probe in probes
    ]
    return checksums.of_value([asked, tokens.digest(documents)])


def _beside(probe: Probe) -> list[Any]:
    """What few probes have; [] of others, so that workdirs from before keep their hash."""
    found = [probe.comparisons, probe.cases, of_records(probe.others)]
    return found if probe.comparisons or probe.cases or probe.others else []


def of_model(model: Model) -> str:
    """SHA-256 (hex) of a model: its weights, and the files that say how it is run.

    Every process must call. The weights count as they are loaded, so that checkpoints
    of any size are hashed where they lie; those in other shards are the same model.
    """
    small = hf_weights.hashes_of_small_files(model.source) if model.source else {}
    return checksums.of_value(
        [checksums.of_model(model.params, model.config), sorted(small.items())]
    )


def begin(folder: epath.Path, config: Mapping[str, Any]) -> None:
    """Notes the config of a run that has not begun yet; what was noted is dropped.

    For the lead process.
    """
    _write(folder, {CONFIG: checksums.of_value(config)})


def is_of(folder: epath.Path, config: Mapping[str, Any]) -> bool:
    """Whether the run in a folder is noted as of this config."""
    there = _read(folder / IDENTITY_FILE)
    return there is not None and there.get(CONFIG) == checksums.of_value(config)


def noted(folder: epath.Path) -> dict[str, str]:
    """The hashes of what the run in a folder read, by field; {} where none are noted."""
    return _read(folder / IDENTITY_FILE) or {}


def check(directory: str, found: Mapping[str, str]) -> None:
    """Notes what a run reads as it begins, and refuses to go on with something else.

    Every process must call.

    Args:
      directory: of the run.
      found: hashes, by the config's field that names what is read.

    Raises:
      ValueError: something has changed since the run began, or differs between hosts;
        names the field.
    """
    _check_hosts(found)
    distributed.on_lead(lambda: _check_file(epath.Path(directory), dict(found)))


def _check_hosts(found: Mapping[str, str]) -> None:
    fields = sorted(found)
    # The fields first: with others the arrays would not be of one shape.
    if not all(_agreed([checksums.of_value(fields)])):
        odd = ["what is read"]
    else:
        same = _agreed([found[field] for field in fields])
        odd = [field for field, right in zip(fields, same, strict=True) if not right]
    if odd:
        raise ValueError(
            f"{', '.join(odd)} is not the same on all hosts. Copy it from one host to "
            "the others, or name one place that all of them reach."
        )


def _agreed(hashes: Sequence[str]) -> list[bool]:
    """Of each hash, whether all processes have the same; all hear it of all."""
    own = [np.frombuffer(bytes.fromhex(one), np.uint8) for one in hashes]
    rows = np.stack(own) if own else np.zeros((0, 32), np.uint8)
    leads = np.asarray(multihost_utils.broadcast_one_to_all(rows))
    return [distributed.all_agree(bool(same)) for same in (rows == leads).all(1)]


def _check_file(folder: epath.Path, found: dict[str, str]) -> None:
    file = folder / IDENTITY_FILE
    there = _read(file)
    if there is None and file.exists():
        print(
            f"{file} is damaged and is written anew: that the data and the model are "
            "those that the run began with is checked by its checkpoints alone."
        )
    there = there or {}
    for name in sorted(there.keys() & found.keys()):
        if there[name] != found[name]:
            raise ValueError(
                f"{name} has changed since the run in {folder} began: its content had "
                f"the hash {there[name][:SHORT]}, and has {found[name][:SHORT]} now. To "
                "go on would mix the two: put back what it was, or start in a new "
                "--workdir."
            )
    if found.keys() - there.keys():
        _write(folder, there | found)


def _write(folder: epath.Path, noted: dict[str, str]) -> None:
    held = {"read": noted, "sha256": checksums.of_value(noted)}
    text = json.dumps(held, indent=2, sort_keys=True) + "\n"
    files.write_text(folder / IDENTITY_FILE, text)


def _read(file: epath.Path) -> dict[str, str] | None:
    """What was noted; None where there is nothing, or it is damaged."""
    if not file.exists():
        return None
    try:
        held = json.loads(file.read_bytes())
        if held["sha256"] == checksums.of_value(held["read"]):
            return held["read"]
    except (ValueError, TypeError, KeyError):
        pass
    return None
