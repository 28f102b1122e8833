# SPDX-License-Identifier: Apache-2.0
"""Which file of a checkpoint holds each tensor, and whether they fit the model."""

import collections
import functools
import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from jax_surgery.checkpoints import safetensors_file
from jax_surgery.checkpoints.hf_layout import Tensor
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.models.layout import EMBEDDING, HEAD
from jax_surgery.storage.files import matching

# The dtype of all parameters, or of each by its path; None keeps the files' dtypes.
Dtype = str | None | Callable[[tuple[str, ...]], str | None]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Old checkpoints carry RoPE's frequencies, which follow from config.json.
# Of a model that sees images too the text part alone is read.
IGNORED = re.compile(
    r".*rotary_emb\.inv_freq$|(model\.)?(vision_tower|multi_modal_projector)\."
)
# Names as a model without its head has them; with a head "model." stands before them.
BARE = re.compile(r"(embed_tokens|layers|norm)\.")
TEXT_PART = re.compile(r"(model\.)?language_model\.")  # stands before these names
# Parameters are held in these; JAX has no 64-bit numbers here, so they are rounded.
DTYPES = {
    dtype.name: dtype
    for dtype in safetensors_file.DTYPES.values()
    if dtype != np.float64
}

AGAIN = "Copy it again from where the checkpoint came from."


def read_json(file: epath.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds something else.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder and not a file. {AGAIN}")
    try:
        found = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else "not text"
        raise ValueError(
            f"{file} is not JSON ({why}): it is damaged or was not copied completely. "
            f"{AGAIN}"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(  # noqa: TRY004, of a file, which users read in one line
            f"{file} holds a {type(found).__name__} and not an object of fields. {AGAIN}"
        )
    return found


def _shards(folder: epath.Path) -> list[epath.Path]:
    """The files that the index names."""
    file = folder / INDEX
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(
            f"{file} has no weight_map, which names the file of each tensor. Download "
            "it again."
        )
    names = sorted({str(name) for name in weight_map.values()})
    parts = {name: name.split("/") for name in names}
    if strange := [n for n, p in parts.items() if ".." in p or p[0] in ("", "~")]:
        raise ValueError(
            f"{file} names {strange[0]!r}, which lies outside {folder}; the files of a "
            "checkpoint lie in its directory. Download it again."
        )
    if missing := [name for name in names if not (folder / name).exists()]:
        raise FileNotFoundError(
            f"{file} names shards that are absent: {', '.join(missing)}. Download them "
            "again."
        )
    return [folder / name for name in names]


def files_of(folder: epath.Path) -> list[epath.Path]:
    """The files that hold a checkpoint's tensors, by the rule of `transformers`.

    model.safetensors where it exists, else the files that the index names; without
    both every *.safetensors. An empty list where there are none of them.

    Raises:
      FileNotFoundError: the index names a file that is absent.
      ValueError: the index is damaged.
    """
    if (folder / SINGLE).exists():
        if (folder / INDEX).exists():
            warnings.warn(
                f"{folder} holds {SINGLE} and {INDEX}: the first is read, as "
                "transformers does, and the index is left out. Delete the one that is "
                "out of date.",
                stacklevel=1,
            )
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        return _shards(folder)
    return matching(folder, ".safetensors")


def entries_of(folder: epath.Path) -> dict[str, Entry]:
    """Where each tensor of a checkpoint's directory lies.

    Names are those of a text model with its head: what a model that was saved without
    one calls "layers.0..." is "model.layers.0...", and so is
    "language_model.model.layers.0..." of one that sees images too.

    Raises:
      FileNotFoundError: no weights, or shards are absent.
      ValueError: weights only as .bin, broken files, or a tensor that is in two files.
    """
    files = files_of(folder)
    if not files:
        if matching(folder, ".bin"):
            raise ValueError(
                f"{folder} holds weights as .bin (pickled PyTorch) only, which are not "
                "read. Convert them once, where PyTorch is installed, with python -c "
                '"from transformers import AutoModelForCausalLM as M; '
                f"M.from_pretrained('{folder}', dtype='auto')"
                ".save_pretrained('CONVERTED')\" and copy the tokenizer's files there."
            )
        raise FileNotFoundError(f"{folder} holds no *.safetensors file.")
    entries: dict[str, Entry] = {}
    for file in files:
        for own, entry in safetensors_file.read_header(file).items():
            text = own[match.end() :] if (match := TEXT_PART.match(own)) else own
            name = f"model.{text}" if BARE.match(text) else text
            if other := entries.get(name):
                raise ValueError(
                    f"{folder} holds {name} twice: {other.name} in {other.file.name} "
                    f"and {own} in {file.name}. Delete the file that does not belong "
                    "to the checkpoint."
                )
            entries[name] = entry
    return entries


@functools.lru_cache(8)
def _equal(one: Entry, two: Entry, changed: tuple[float, ...]) -> bool:
    """Whether two tensors are equal; `changed` says when their files were."""
    del changed
    if (one.shape, one.kind) != (two.shape, two.kind):
        return False
    rows = one.shape[0]
    step = max(1, safetensors_file.CHUNK // max(1, one.nbytes // rows))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        a, b = (safetensors_file.read_rows(e, start, stop) for e in (one, two))
        if a.tobytes() != b.tobytes():
            return False
    return True


def has_own_head(folder: epath.Path) -> bool:
    """Whether files hold an output head that is not the embedding.

    A config.json that ties the two is then wrong: `transformers` runs the head that is
    stored, and so is done here. A head that repeats the embedding is not one's own.

    Raises:
      ValueError: see `entries_of`.
    """
    if not files_of(folder):
        return False
    entries = entries_of(folder)
    both = [entries.get(row.tensor()) for row in (EMBEDDING, HEAD)]
    if None in both or any(e.kind not in safetensors_file.DTYPES for e in both if e):
        return False
    one, two = (entry for entry in both if entry)
    stats = (entry.file.stat() for entry in (one, two))
    if _equal(one, two, tuple(float(s.mtime or 0) for s in stats)):
        return False
    warnings.warn(
        f"{folder}/config.json ties the output head to the embedding, but "
        f"{two.file.name} holds another head: the stored head is used, as transformers "
        "does, and exports have tie_word_embeddings=false.",
        stacklevel=1,
    )
    return True


def of_model(folder: epath.Path, tensors: list[Tensor], tied: bool) -> dict[str, Entry]:
    """Where each tensor of a model lies. Biases that no file holds are left out.

    Where head and embedding are tied and only the head is stored, that is the embedding.

    Args:
      folder: of the checkpoint.
      tensors: the model's.
      tied: the output head is the embedding; files may repeat it.

    Raises:
      FileNotFoundError, ValueError: see `entries_of` and `check`.
    """
    entries = entries_of(folder)
    head = entries.get(HEAD.tensor())
    if tied and head:
        entries.setdefault(EMBEDDING.tensor(), head)
    check(tensors, entries, tied)
    absent = [t.name for t in tensors if t.name not in entries]
    if absent:
        warnings.warn(
            f"{folder} lacks {len(absent)} biases that its config.json asks for, first "
            f"{absent[0]}: they are 0, as transformers makes them.",
            stacklevel=1,
        )
    return entries


def check(tensors: list[Tensor], entries: dict[str, Entry], tied: bool) -> None:
    """Raises ValueError that lists all tensors that are missing, unused or wrong.

    Biases may be missing: they are 0 then.

    Args:
      tensors: the model's tensors.
      entries: the files' tensors.
      tied: the output head is the embedding; files may repeat it.
    """
    wanted = {tensor.name: tensor.file_shape for tensor in tensors}
    biases = {tensor.name for tensor in tensors if tensor.path[-1] == "bias"}
    read = ", ".join(safetensors_file.DTYPES)
    problems = collections.defaultdict(list)
    for name, shape in sorted(wanted.items()):
        if (entry := entries.get(name)) is None:
            if name not in biases:
                problems["missing tensors"].append(name)
        elif entry.shape != shape:
            problems["misshapen tensors"].append(
                f"{name} {entry.shape}, wanted {shape}"
            )
        elif entry.kind not in safetensors_file.DTYPES:
            problems[f"tensors that are none of {read}"].append(f"{name} {entry.kind}")
    extra = set(entries) - set(wanted) - ({HEAD.tensor()} if tied else set())
    if unused := sorted(name for name in extra if not IGNORED.match(name)):
        problems["unused tensors"] = unused
    if problems:
        lines = (
            f"{what} ({len(names)}): {', '.join(names[:8])}"
            + (", ..." if len(names) > 8 else "")
            for what, names in problems.items()
        )
        raise ValueError(
            f"the checkpoint does not fit its config.json: {'; '.join(lines)}. Take the "
            "files of one checkpoint."
        )


def dtype_named(name: str) -> np.dtype:
    """The dtype of that name; ValueError where files do not hold it."""
    if name not in DTYPES:
        raise ValueError(
            f"weights of dtype {name!r}; choose one of {', '.join(DTYPES)}."
        )
    return DTYPES[name]


def _kept(tensor: Tensor, entries: dict[str, Entry]) -> np.dtype:
    """The dtype in which a tensor is held that keeps its file's."""
    name = tensor.name
    if name not in entries:  # a bias
        name = name.removesuffix("bias") + "weight"
    own = entries[name].dtype
    return np.dtype(np.float32) if own == np.float64 else own


def parameter_dtypes(
    tensors: list[Tensor], entries: dict[str, Entry], dtype: Dtype
) -> dict[tuple[str, ...], np.dtype]:
    """The dtype of each parameter: the one asked for, or (None) the files'.

    float64 becomes float32, and a bias that no file holds has the dtype of its matrix.

    Args:
      dtype: of every parameter, or a function of a parameter's path that gives its.

    Raises:
      ValueError: an unknown dtype, or layers of one parameter differ.
    """
    asked = dtype if callable(dtype) else lambda path: dtype
    found: dict[tuple[str, ...], np.dtype] = {}
    for tensor in tensors:
        wanted = asked(tensor.path)
        own = _kept(tensor, entries) if wanted is None else dtype_named(wanted)
        if found.setdefault(tensor.path, own) != own:
            raise ValueError(
                f"{tensor.name} is {own} and other layers' are {found[tensor.path]}, "
                "but layers are stacked; give one dtype for all."
            )
    return found
