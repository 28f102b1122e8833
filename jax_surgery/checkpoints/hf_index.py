# SPDX-License-Identifier: Apache-2.0
"""Which file of a checkpoint holds each tensor, and whether they fit the model."""

import collections
import json
import re
from collections.abc import Callable

import numpy as np
from etils import epath

from jax_surgery.checkpoints import safetensors_file
from jax_surgery.checkpoints.hf_layout import Tensor
from jax_surgery.checkpoints.safetensors_file import Entry

# The dtype of all parameters, or of each by its path; None keeps the files' dtypes.
Dtype = str | None | Callable[[tuple[str, ...]], str | None]
INDEX = "model.safetensors.index.json"
# Old checkpoints carry RoPE's frequencies, which follow from config.json.
IGNORED = re.compile(r".*rotary_emb\.inv_freq$")
DTYPES = {dtype.name: dtype for dtype in safetensors_file.DTYPES.values()}


def entries_of(folder: epath.Path) -> dict[str, Entry]:
    """Where each tensor of a checkpoint's directory lies.

    Raises:
      FileNotFoundError: no weights, or shards are absent.
      ValueError: weights only as .bin, or broken files.
    """
    if (folder / INDEX).exists():
        weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        shards = sorted(set(weight_map.values()))
        if missing := [file for file in shards if not (folder / file).exists()]:
            raise FileNotFoundError(
                f"{folder / INDEX} names shards that are absent: {', '.join(missing)}. "
                "Download them again."
            )
        held = {f: safetensors_file.read_header(folder / f) for f in shards}
        return {n: held[f][n] for n, f in weight_map.items() if n in held[f]}
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        if list(folder.glob("*.bin")):
            raise ValueError(
                f"{folder} holds weights as .bin (pickled PyTorch) only, which are not "
                "read. Convert them once, where PyTorch is installed:\n  python -c "
                '"from transformers import AutoModelForCausalLM as M; '
                f"M.from_pretrained('{folder}', dtype='auto')"
                ".save_pretrained('CONVERTED')\"\nand copy the tokenizer's files there."
            )
        raise FileNotFoundError(f"{folder} holds no *.safetensors file.")
    entries = {}
    for shard in shards:
        entries |= safetensors_file.read_header(shard)
    return entries


def check(tensors: list[Tensor], entries: dict[str, Entry], tied: bool) -> None:
    """Raises ValueError that lists all tensors that are missing, unused or wrong.

    Args:
      tensors: the model's tensors.
      entries: the files' tensors.
      tied: the output head is the embedding; files may repeat it.
    """
    wanted = {tensor.name: tensor.file_shape for tensor in tensors}
    read = ", ".join(safetensors_file.DTYPES)
    problems = collections.defaultdict(list)
    for name, shape in sorted(wanted.items()):
        if (entry := entries.get(name)) is None:
            problems["missing tensors"].append(name)
        elif entry.shape != shape:
            problems["misshapen tensors"].append(
                f"{name} {entry.shape}, wanted {shape}"
            )
        elif entry.kind not in safetensors_file.DTYPES:
            problems[f"tensors that are none of {read}"].append(f"{name} {entry.kind}")
    extra = set(entries) - set(wanted) - ({"lm_head.weight"} if tied else set())
    if unused := sorted(name for name in extra if not IGNORED.match(name)):
        problems["unused tensors"] = unused
    if problems:
        lines = (
            f"{what} ({len(names)}): {', '.join(names[:8])}"
            + (", ..." if len(names) > 8 else "")
            for what, names in problems.items()
        )
        raise ValueError(
            "the checkpoint does not fit its config.json:\n  " + "\n  ".join(lines)
        )


def dtype_named(name: str) -> np.dtype:
    """The dtype of that name; ValueError where files do not hold it."""
    if name not in DTYPES:
        raise ValueError(
            f"weights of dtype {name!r}; choose one of {', '.join(DTYPES)}."
        )
    return DTYPES[name]


def parameter_dtypes(
    tensors: list[Tensor], entries: dict[str, Entry], dtype: Dtype
) -> dict[tuple[str, ...], np.dtype]:
    """The dtype of each parameter: the one asked for, or (None) the files'.

    Args:
      dtype: of every parameter, or a function of a parameter's path that gives its.

    Raises:
      ValueError: an unknown dtype, or layers of one parameter differ.
    """
    asked = dtype if callable(dtype) else lambda path: dtype
    found: dict[tuple[str, ...], np.dtype] = {}
    for tensor in tensors:
        wanted = asked(tensor.path)
        own = entries[tensor.name].dtype if wanted is None else dtype_named(wanted)
        if found.setdefault(tensor.path, own) != own:
            raise ValueError(
                f"{tensor.name} is {own} and other layers' are {found[tensor.path]}, "
                "but layers are stacked; give one dtype for all."
            )
    return found
