# SPDX-License-Identifier: Apache-2.0
"""An edit as a thing: a low-rank delta with the hashes of the model it belongs to.

The file is an ordinary safetensors file: NAME.a [inputs, rank] and NAME.b [rank,
outputs] for each tensor NAME of the checkpoint that the edit changes, and in the
header what it is, where it came from and what it fits.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from jax_surgery.checkpoints import hf_index, hf_layout, safetensors_file
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.flops import matrix_shapes

FORMAT, VERSION = "jax_surgery.edit", 1
FLOAT = np.dtype(np.float32)
SHORT = 12  # digits of a hash in messages
# A matrix of a layer -> what a checkpoint calls its tensor, after the layer.
TENSORS = {path[1]: name for name, path in hf_layout.LAYER.items() if len(path) == 3}

Factors = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Which model it is, as far as an edit is concerned.

    Attributes:
      tensors: SHA-256 (hex) of each tensor that the edit changes: of its dtype, shape
        and bytes as the checkpoint stores them.
    """

    tensors: dict[str, str]

    @property
    def model(self) -> str:
        """One hash (hex) of all."""
        lines = (f"{name} {own}\n" for name, own in sorted(self.tensors.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """A change of a model's matrices: y = x W becomes y = x (W + scale a b).

    Attributes:
      factors: (a [inputs, rank], b [rank, outputs]), float32 and finite, by name of
        the checkpoint's tensor (which stores W transposed, [outputs, inputs]).
      scale: of all products.
      base: the model that the edit belongs to.
      provenance: where it came from; whatever JSON holds.
      result: the checkpoint that `edit_apply.apply` makes of the base, if known.
    """

    factors: Factors
    scale: float
    base: Fingerprint
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    result: Fingerprint | None = None

    def __post_init__(self):
        if not self.factors:
            raise ValueError("an edit without factors changes nothing; give some.")
        if not math.isfinite(self.scale):
            raise ValueError(f"an edit's scale is {self.scale}; it must be finite.")
        for name, (a, b) in self.factors.items():
            shapes = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] > 0
            if not shapes or not a.dtype == b.dtype == FLOAT:
                raise ValueError(
                    f"factors of {name} are {a.dtype} {a.shape} and {b.dtype} "
                    f"{b.shape}; they must be float32 [inputs, rank], [rank, outputs]."
                )
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise ValueError(f"factors of {name} hold numbers that are not finite.")
        for known in filter(None, (self.base, self.result)):
            if set(known.tensors) != set(self.factors):
                odd = min(set(known.tensors) ^ set(self.factors))
                raise ValueError(
                    f"{odd} has a hash and no factors, or factors and no hash; an edit "
                    "has both for every tensor that it changes."
                )

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the factors, which scaling leaves as it is."""
        found = hashlib.sha256()
        for name in sorted(self.factors):
            for factor in self.factors[name]:
                found.update(f"{name} {factor.shape}\n".encode())
                found.update(np.ascontiguousarray(factor).view(np.uint8))
        return found.hexdigest()

    @property
    def norms(self) -> dict[str, float]:
        """Frobenius norm of scale * a b, by tensor."""
        return {
            name: abs(self.scale) * float(np.linalg.norm(_thin(a, b)[1]))
            for name, (a, b) in self.factors.items()
        }


def short(digest: str) -> str:
    """The beginning of a hash, as messages show it."""
    return digest[:SHORT]


def hasher(dtype: np.dtype, shape: Sequence[int]) -> Any:
    """What hashes a tensor once it has been fed (`update`) the tensor's bytes."""
    return hashlib.sha256(f"{dtype.name} {tuple(shape)}\n".encode())


def find(entries: dict[str, Entry], name: str, folder: epath.Path) -> Entry:
    """Where a tensor of a checkpoint lies.

    Raises:
      ValueError: it is not there, or of a dtype that is not read.
    """
    if name not in entries:
        raise ValueError(
            f"{folder} holds no {name}: a model of another architecture, or one whose "
            "output head is its embedding. Use an edit that was made for this model."
        )
    if entries[name].kind not in safetensors_file.DTYPES:
        raise ValueError(
            f"{name} in {folder} is {entries[name].kind}; edits change weights of "
            f"{', '.join(safetensors_file.DTYPES)}."
        )
    return entries[name]


def fingerprint(folder: str | epath.Path, tensor_names: Iterable[str]) -> Fingerprint:
    """Hashes of some tensors of a checkpoint, read piece by piece.

    Args:
      folder: a checkpoint in Hugging Face format, local or gs://.
      tensor_names: of the checkpoint.

    Raises:
      FileNotFoundError, ValueError: no such checkpoint or tensor.
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
    """An edit's factors from those of stacked matrices.

    Args:
      config: the model.
      matrices: (a [layers, inputs, rank], b [layers, rank, outputs]) by name of the
        matrix ("q" to "down"), in the coordinates of `Trainable.take`: heads merged.
      first_layer: the model's layer that the first of them is, 0 or more.

    Raises:
      ValueError: a matrix, a layer or a shape that the model has not.
    """
    factors: Factors = {}
    for matrix, pair in matrices.items():
        if matrix not in TENSORS:
            raise ValueError(f"no matrix {matrix!r}; choose from {', '.join(TENSORS)}.")
        a, b = (np.asarray(factor, FLOAT) for factor in pair)
        layers, rank = len(a), a.shape[-1]
        inputs, outputs = matrix_shapes(config)[matrix]
        wanted = (layers, inputs, rank), (layers, rank, outputs)
        last = first_layer + layers
        if (a.shape, b.shape) != wanted or not 0 <= first_layer < last:
            raise ValueError(
                f"factors of {matrix!r} are {a.shape} and {b.shape} from layer "
                f"{first_layer} on; this model's are {wanted[0]} and {wanted[1]}."
            )
        if last > config.num_layers:
            raise ValueError(
                f"factors of {matrix!r} are for layers {first_layer} to {last - 1}, and "
                f"the model has {config.num_layers}."
            )
        for layer, one in enumerate(zip(a, b, strict=True), start=first_layer):
            factors[f"model.layers.{layer}.{TENSORS[matrix]}"] = one
    return factors


def _thin(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(left, core, right) whose product is a b, left and right^T orthonormal."""
    left, upper = np.linalg.qr(a.astype(np.float64))
    right, lower = np.linalg.qr(b.T.astype(np.float64))
    return left, upper @ lower.T, right.T


def truncated(a: np.ndarray, b: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest factors of at most a rank (Eckart-Young), float32.

    Args:
      a, b: [inputs, r] and [r, outputs].
      rank: 1 or more.
    """
    left, core, right = _thin(a, b)
    u, sizes, v = np.linalg.svd(core)
    root = np.sqrt(sizes[:rank])
    a, b = left @ (u[:, :rank] * root), (root[:, None] * v[:rank]) @ right
    return a.astype(FLOAT), b.astype(FLOAT)


def to_tensors(edit: Edit) -> dict[str, np.ndarray]:
    """The tensors of an edit's file, by name."""
    return {
        f"{name}.{suffix}": np.ascontiguousarray(factor)
        for name, pair in edit.factors.items()
        for suffix, factor in zip("ab", pair, strict=True)
    }


def to_metadata(edit: Edit) -> dict[str, str]:
    """What the header of an edit's file says."""

    def known(own: Fingerprint | None) -> dict[str, Any] | None:
        return own and {"model": own.model, "tensors": own.tensors}

    fields = {
        "scale": edit.scale,
        "base": known(edit.base),
        "result": known(edit.result),
        "provenance": edit.provenance,
        "factors": edit.digest,
    }
    return {"kind": FORMAT, "version": str(VERSION), "edit": json.dumps(fields)}


def save_edit(edit: Edit, file: str | epath.Path) -> None:
    """Writes an edit; any reader of safetensors opens the file.

    Args:
      edit: the edit, whose provenance JSON must hold.
      file: local or gs://; replaced where it exists.
    """
    tensors, metadata = to_tensors(edit), to_metadata(edit)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    with safetensors_file.made(epath.Path(file)) as partial:
        safetensors_file.write(partial, shapes, FLOAT, tensors.values(), metadata)


def _fields(file: epath.Path) -> dict[str, Any]:
    """What the header of an edit's file says of the edit."""
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give an edit's file.")
    metadata = safetensors_file.read_metadata(file)
    if metadata.get("kind") != FORMAT:
        raise ValueError(
            f"{file} is a safetensors file, but no edit: give one that a run or "
            "configs/edit.py wrote (edit.safetensors)."
        )
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"{file} is an edit of format version {metadata.get('version')}; this "
            f"program reads version {VERSION}. Use the version that wrote it."
        )
    return json.loads(metadata["edit"])


def load_edit(file: str | epath.Path) -> Edit:
    """Reads an edit, from its own file or from a rollback's (the edit that it undoes).

    Raises:
      FileNotFoundError: no such file.
      ValueError: no edit, one of another version, or a broken one.
    """
    file = epath.Path(file)
    fields = _fields(file)
    entries = safetensors_file.read_header(file)

    def read(name: str) -> np.ndarray:
        return safetensors_file.read_rows(entries[name], 0, entries[name].shape[0])

    def known(own: dict[str, Any] | None) -> Fingerprint | None:
        return own and Fingerprint(own["tensors"])

    edit = Edit(
        {
            name: (read(f"{name}.a"), read(f"{name}.b"))
            for name in fields["base"]["tensors"]
        },
        fields["scale"],
        known(fields["base"]),
        fields["provenance"],
        known(fields["result"]),
    )
    if edit.digest != fields["factors"]:
        raise ValueError(
            f"{file} is broken: its factors have the hash {short(edit.digest)}, and "
            f"{short(fields['factors'])} by its header. Copy it again."
        )
    return edit
