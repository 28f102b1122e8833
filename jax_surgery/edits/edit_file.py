# SPDX-License-Identifier: Apache-2.0
"""An edit: low-rank deltas with the hashes of the model that they were made for.

The file is an ordinary safetensors file: NAME.a [inputs, rank] and NAME.b [rank,
outputs] for each tensor NAME of the checkpoint that the edit changes. The header holds
the format, the scale, the hashes and the provenance.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from jax_surgery.checkpoints import hf_index, safetensors_file
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.models import architectures
from jax_surgery.models.config import ModelConfig

FORMAT, VERSION = "jax_surgery.edit", 1
FLOAT = np.dtype(np.float32)
SHORT = 12  # hexadecimal digits of a hash that messages show

Factors = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Identifies a model by the tensors that an edit changes.

    Attributes:
      tensors: SHA-256 (hex) by tensor, of the dtype, the shape and the bytes as the
        checkpoint stores them.
    """

    tensors: dict[str, str]

    def of(self, names: Iterable[str]) -> "Fingerprint":
        """The hashes of some of the tensors."""
        return Fingerprint({name: self.tensors[name] for name in names})

    @property
    def model(self) -> str:
        """One SHA-256 (hex) of all tensors."""
        lines = (f"{name} {own}\n" for name, own in sorted(self.tensors.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """A change of a model's matrices: y = x W becomes y = x (W + scale a b).

    Attributes:
      factors: (a [inputs, rank], b [rank, outputs]), float32 and finite, by name of
        the checkpoint's tensor (which stores W transposed, [outputs, inputs]).
      scale: multiplies every product a b.
      base: the model that the edit was made for.
      provenance: how the edit was made; anything that JSON can hold.
      result: the model after `apply.apply`, where it is known.
    """

    factors: Factors
    scale: float
    base: Fingerprint
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    result: Fingerprint | None = None

    def __post_init__(self):
        if not self.factors:
            raise ValueError(
                "an edit needs factors for at least one tensor, and this has none."
            )
        if not math.isfinite(self.scale):
            raise ValueError(f"the edit's scale is {self.scale}; it must be finite.")
        for name, (a, b) in self.factors.items():
            shapes = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] > 0
            if not shapes or not a.dtype == b.dtype == FLOAT:
                raise ValueError(
                    f"the factors of {name} are {a.dtype} {a.shape} and {b.dtype} "
                    f"{b.shape}; they must be float32, [inputs, rank] and [rank, "
                    "outputs]."
                )
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise ValueError(
                    f"the factors of {name} hold numbers that are not finite."
                )
        for known in filter(None, (self.base, self.result)):
            if set(known.tensors) != set(self.factors):
                odd = min(set(known.tensors) ^ set(self.factors))
                raise ValueError(
                    f"{odd} has a hash without factors, or factors without a hash; an "
                    "edit needs both for every tensor that it changes."
                )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the factors; scaling the edit does not change it."""
        found = hashlib.sha256()
        for name in sorted(self.factors):
            for factor in self.factors[name]:
                found.update(f"{name} {factor.shape}\n".encode())
                found.update(np.ascontiguousarray(factor).view(np.uint8).data)
        return found.hexdigest()

    @property
    def norms(self) -> dict[str, float]:
        """Frobenius norm of scale * a b, by tensor."""
        return {
            name: abs(self.scale) * float(np.linalg.norm(_thin(a, b)[1]))
            for name, (a, b) in self.factors.items()
        }


def short(digest: str) -> str:
    """The first digits of a hash, for messages."""
    return digest[:SHORT]


def hasher(dtype: np.dtype, shape: Sequence[int]) -> Any:
    """Starts the hash of a tensor; `update` then takes the tensor's bytes."""
    return hashlib.sha256(f"{dtype.name} {tuple(shape)}\n".encode())


def find(entries: dict[str, Entry], name: str, folder: epath.Path) -> Entry:
    """The entry of one tensor in a checkpoint.

    Raises:
      ValueError: the tensor is missing, or its dtype is not supported.
    """
    if name not in entries:
        raise ValueError(
            f"{folder} has no tensor {name}: the model has another architecture, or "
            "shares its output head with the embedding. Use an edit that was made for "
            "this model."
        )
    if entries[name].kind not in safetensors_file.DTYPES:
        raise ValueError(
            f"{name} in {folder} has the dtype {entries[name].kind}; edits can change "
            f"only weights of {', '.join(safetensors_file.DTYPES)}."
        )
    return entries[name]


def fingerprint(folder: str | epath.Path, tensor_names: Iterable[str]) -> Fingerprint:
    """Hashes some tensors of a checkpoint, which is read in pieces.

    Args:
      folder: a checkpoint in Hugging Face format, local or gs://.
      tensor_names: the tensors, by the checkpoint's names.

    Raises:
      FileNotFoundError: the checkpoint does not exist.
      ValueError: a tensor is missing, or its dtype is not supported.
    """
    folder = epath.Path(folder)
    entries = hf_index.entries_of(folder)
    hashes = {}
    for name in tensor_names:
        entry = find(entries, name, folder)
        found, left = hasher(entry.dtype, entry.shape), entry.nbytes
        with entry.file.open("rb") as opened:
            opened.seek(entry.offset)
            while left and (part := opened.read(min(left, safetensors_file.CHUNK))):
                found.update(part)
                left -= len(part)
        hashes[name] = found.hexdigest()
    return Fingerprint(hashes)


def from_matrices(
    config: ModelConfig, matrices: dict[str, tuple[Any, Any]], first_layer: int = 0
) -> Factors:
    """Converts factors of matrices stacked over layers to an edit's factors.

    Args:
      config: the model.
      matrices: (a [layers, inputs, rank], b [layers, rank, outputs]) by name of the
        matrix ("q" to "down"), with heads merged as in `Trainable.take`.
      first_layer: index of the model's layer that the first of them belongs to.

    Raises:
      ValueError: the model has no such matrix or layer, or its shape differs.
    """
    factors: Factors = {}
    rows = architectures.matrices(config)
    for matrix, pair in matrices.items():
        if matrix not in rows:
            raise ValueError(
                f"unknown matrix {matrix!r}; choose from {', '.join(rows)}."
            )
        a, b = (np.asarray(factor, FLOAT) for factor in pair)
        layers, rank = len(a), a.shape[-1]
        inputs, outputs = rows[matrix].matrix_shape(config)
        wanted = (layers, inputs, rank), (layers, rank, outputs)
        last = first_layer + layers
        if (a.shape, b.shape) != wanted or not 0 <= first_layer < last:
            raise ValueError(
                f"the factors of {matrix!r} have the shapes {a.shape} and {b.shape} "
                f"from layer {first_layer} on; this model needs {wanted[0]} and "
                f"{wanted[1]}, from layer 0 or a later one on."
            )
        if last > config.num_layers:
            raise ValueError(
                f"the factors of {matrix!r} are for layers {first_layer} to {last - 1}, "
                f"and the model has only {config.num_layers} layers."
            )
        for layer, one in enumerate(zip(a, b, strict=True), start=first_layer):
            factors[rows[matrix].tensor(layer)] = one
    return factors


def _thin(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left, core, right) with product a b, where left and right^T are orthonormal."""
    left, upper = np.linalg.qr(a.astype(np.float64))
    right, lower = np.linalg.qr(b.T.astype(np.float64))
    return left, upper @ lower.T, right.T


def truncated(a: np.ndarray, b: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the best approximation of a b with at most a given rank, float32.

    The truncated singular value decomposition is the best one (Eckart and Young, 1936).

    Args:
      a, b: [inputs, r] and [r, outputs].
      rank: the highest rank, 1 or more.
    """
    left, core, right = _thin(a, b)
    u, sizes, v = np.linalg.svd(core)
    root = np.sqrt(sizes[:rank])
    a, b = left @ (u[:, :rank] * root), (root[:, None] * v[:rank]) @ right
    return a.astype(FLOAT), b.astype(FLOAT)


def to_tensors(edit: Edit) -> dict[str, np.ndarray]:
    """The tensors of the edit's file, by name."""
    return {
        f"{name}.{suffix}": np.ascontiguousarray(factor)
        for name, pair in edit.factors.items()
        for suffix, factor in zip("ab", pair, strict=True)
    }


def to_metadata(edit: Edit, **further: str) -> dict[str, str]:
    """The metadata in the header of the edit's file, with its checksum."""

    def hashes(own: Fingerprint) -> dict[str, Any]:
        return {"model": own.model, "tensors": own.tensors}

    fields = {
        "scale": edit.scale,
        "base": hashes(edit.base),
        "result": hashes(edit.result) if edit.result else None,
        "provenance": edit.provenance,
        "factors": edit.digest,
    }
    own = {"kind": FORMAT, "version": str(VERSION), "edit": json.dumps(fields)}
    return own | further | {"sha256": _seal(own | further)}


def _seal(metadata: dict[str, str]) -> str:
    """SHA-256 (hex) of the metadata but for the format's own and the checksum."""
    read = {k: v for k, v in metadata.items() if k not in ("format", "sha256")}
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def save_edit(edit: Edit, file: str | epath.Path) -> None:
    """Writes an edit as a safetensors file that any reader of the format can open.

    Args:
      edit: the edit; its provenance must be serialisable as JSON.
      file: local or gs://; an existing file is replaced.
    """
    tensors, metadata = to_tensors(edit), to_metadata(edit)
    layout = {name: (tensor.shape, FLOAT) for name, tensor in tensors.items()}
    safetensors_file.write(epath.Path(file), layout, tensors.values(), metadata)


def _fields(file: epath.Path) -> dict[str, Any]:
    """The fields of an edit in the header of its file."""
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give the file of an edit.")
    metadata = safetensors_file.read_metadata(file)
    if metadata.get("kind") != FORMAT:
        raise ValueError(
            f"{file} is a safetensors file, but not an edit: give the edit.safetensors "
            "that a removal or configs/edit.py wrote."
        )
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{file} is an edit of format version {metadata.get('version')}; this "
            f"program reads version {VERSION}. Use the release of jax_surgery that wrote "
            "it."
        )
    # Files of earlier versions have no checksum of the header.
    if metadata.get("sha256", found := _seal(metadata)) != found:
        raise ValueError(f"{file} is damaged: its header was changed. Copy it again.")
    return json.loads(metadata["edit"])


def load_edit(file: str | epath.Path) -> Edit:
    """Reads an edit from its own file, or from the file that rolls it back.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is not an edit, has another format version or is damaged.
    """
    file = epath.Path(file)
    try:
        return _load(file, _fields(file))
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        if str(file) in str(error):  # it is said already
            raise
        raise ValueError(
            f"{file} is damaged: its header does not fit its tensors. Copy it again."
        ) from error


def _load(file: epath.Path, fields: dict[str, Any]) -> Edit:
    entries = safetensors_file.read_header(file)

    def read(name: str) -> np.ndarray:
        return safetensors_file.read_rows(entries[name], 0, entries[name].shape[0])

    base, result = fields["base"]["tensors"], fields["result"]
    edit = Edit(
        {name: (read(f"{name}.a"), read(f"{name}.b")) for name in base},
        fields["scale"],
        Fingerprint(base),
        fields["provenance"],
        Fingerprint(result["tensors"]) if result else None,
    )
    if edit.digest != fields["factors"]:
        raise ValueError(
            f"{file} is damaged: its factors have the hash {short(edit.digest)}, and "
            f"its header says {short(fields['factors'])}. Copy it again."
        )
    return edit
