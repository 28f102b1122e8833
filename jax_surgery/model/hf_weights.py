# SPDX-License-Identifier: Apache-2.0
"""Llama weights from and to Hugging Face directories (safetensors).

Tensors are read one at a time from memory-mapped files into the stacked parameters
and written one at a time to shards, so that host memory stays at the parameters
themselves plus one tensor (reading) or one shard (writing).
"""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from etils import epath
from safetensors import safe_open
from safetensors.numpy import save_file

from jax_surgery.model import config as llama_config
from jax_surgery.model import llama
from jax_surgery.model.config import LlamaConfig

INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)

# Hugging Face's name -> path in the parameters. Hugging Face keeps matrices as
# [out, in]; ours are [in, out...], so every kernel is transposed. RoPE needs no
# permutation: both turn the two halves of a head.
TOP = {
    "model.embed_tokens.weight": ("embedder", "embedding"),
    "model.norm.weight": ("final_norm", "scale"),
    "lm_head.weight": ("head", "kernel"),
}
LAYER = {
    "input_layernorm.weight": ("attention_norm", "scale"),
    "self_attn.q_proj.weight": ("attention", "q", "kernel"),
    "self_attn.k_proj.weight": ("attention", "k", "kernel"),
    "self_attn.v_proj.weight": ("attention", "v", "kernel"),
    "self_attn.o_proj.weight": ("attention", "o", "kernel"),
    "post_attention_layernorm.weight": ("mlp_norm", "scale"),
    "mlp.gate_proj.weight": ("mlp", "gate", "kernel"),
    "mlp.up_proj.weight": ("mlp", "up", "kernel"),
    "mlp.down_proj.weight": ("mlp", "down", "kernel"),
}
# Old checkpoints carry RoPE's frequencies, which follow from config.json.
IGNORED = re.compile(r".*rotary_emb\.inv_freq$")
DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def _leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _names(config: LlamaConfig) -> Iterator[tuple[str, tuple[str, ...], int | None]]:
    """Hugging Face's name, path, and layer of every tensor."""
    for name, path in TOP.items():
        if not (config.tie_embeddings and path[0] == "head"):
            yield name, path, None
    for index in range(config.num_layers):
        for name, path in LAYER.items():
            yield f"model.layers.{index}.{name}", ("layers", *path), index


def _hf_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that Hugging Face gives one layer's tensor of ours."""
    if path[-1] != "kernel":
        return shape
    # The output kernel is [N, H, D]: heads are its input.
    inputs = int(np.prod(shape[:-1])) if path[-2] == "o" else shape[0]
    return (int(np.prod(shape)) // inputs, inputs)


def resolve(source: str) -> epath.Path:
    """The directory of a checkpoint: itself, or a hub download.

    Raises:
      FileNotFoundError: neither a directory nor a hub name that can be had.
    """
    folder = epath.Path(source)
    if folder.is_dir():
        return folder
    if source.startswith((".", "/", "~", "gs://")) or source.count("/") != 1:
        raise FileNotFoundError(
            f"model directory {source!r} does not exist; give a directory in Hugging "
            "Face format, a hub name such as meta-llama/Llama-2-7b-hf, or 'embedded'."
        )
    import huggingface_hub

    patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model"]
    try:
        return epath.Path(
            huggingface_hub.snapshot_download(
                source, allow_patterns=[*patterns, "*.jinja"]
            )
        )
    except Exception as error:
        raise FileNotFoundError(
            f"{source!r} is no local directory and could not be had from the hub "
            f"({type(error).__name__}: {error}). Check the name, the network, and for "
            "gated models `hf auth login`."
        ) from error


def load_config(source: str) -> LlamaConfig:
    """The architecture of a checkpoint.

    Raises:
      FileNotFoundError: no checkpoint, or no config.json in it.
      ValueError: not a Llama.
    """
    file = resolve(source) / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"{file.parent} has no config.json: no checkpoint.")
    return llama_config.from_hf(json.loads(file.read_text()))


def load_tokenizer(source: str) -> Any:
    """The checkpoint's tokenizer (`transformers`, fast)."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(resolve(source)))
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer of {source!r} is a slow one; jax_surgery needs character "
            "offsets. Save it with tokenizer.json (a fast tokenizer)."
        )
    return tokenizer


def _files(folder: epath.Path) -> dict[str, epath.Path]:
    """Which file holds each tensor."""
    if (folder / INDEX).exists():
        weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        missing = sorted({f for f in weight_map.values() if not (folder / f).exists()})
        if missing:
            raise FileNotFoundError(
                f"{folder / INDEX} names shards that are absent: {', '.join(missing)}. "
                "Download them again."
            )
        return {name: folder / file for name, file in weight_map.items()}
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
    files = {}
    for shard in shards:
        with safe_open(str(shard), framework="numpy") as opened:
            files.update(dict.fromkeys(opened.keys(), shard))
    return files


def _check(config: LlamaConfig, files: dict[str, epath.Path]) -> None:
    """Lists missing, unused and misshapen tensors, all at once."""
    abstract = llama.abstract_params(config)
    wanted = {}
    for name, path, layer in _names(config):
        shape = _leaf(abstract, path).shape
        wanted[name] = _hf_shape(path, shape if layer is None else shape[1:])
    missing = sorted(set(wanted) - set(files))
    tied = {"lm_head.weight"} if config.tie_embeddings else set()
    unused = sorted(n for n in set(files) - set(wanted) - tied if not IGNORED.match(n))
    wrong = []
    for shard in sorted(set(files.values())):
        with safe_open(str(shard), framework="numpy") as opened:
            for name in sorted(set(opened.keys()) & set(wanted)):
                shape = tuple(opened.get_slice(name).get_shape())
                if shape != wanted[name]:
                    wrong.append(f"{name} {shape}, wanted {wanted[name]}")
    problems = [
        f"{what} ({len(names)}): {', '.join(names[:8])}"
        + (", ..." if len(names) > 8 else "")
        for what, names in (
            ("missing tensors", missing),
            ("unused tensors", unused),
            ("misshapen tensors", wrong),
        )
        if names
    ]
    if problems:
        raise ValueError(
            "the checkpoint does not fit its config.json:\n  " + "\n  ".join(problems)
        )


def load_llama(
    source: str, dtype: str | None = "float32"
) -> tuple[llama.Params, LlamaConfig]:
    """Loads a checkpoint.

    Args:
      source: directory in Hugging Face format, or hub name.
      dtype: of the parameters; None keeps the files' own.

    Returns:
      (parameters, architecture).

    Raises:
      FileNotFoundError: no such checkpoint, or shards are absent.
      ValueError: not a Llama, weights only as .bin, or missing, unused or misshapen
        tensors (all are listed).
    """
    folder = resolve(source)
    config = load_config(source)
    files = _files(folder)
    _check(config, files)
    buffers: dict[tuple[str, ...], np.ndarray] = {}
    abstract = llama.abstract_params(config)
    by_file: dict[epath.Path, list] = {}
    for name, path, layer in _names(config):
        by_file.setdefault(files[name], []).append((name, path, layer))
    for shard, entries in by_file.items():
        with safe_open(str(shard), framework="numpy") as opened:
            for name, path, layer in entries:
                tensor = opened.get_tensor(name)
                shape = _leaf(abstract, path).shape
                if path not in buffers:
                    kind = DTYPES[dtype] if dtype else tensor.dtype
                    buffers[path] = np.empty(shape, kind)
                if path[-1] == "kernel":
                    tensor = tensor.T
                if layer is None:
                    buffers[path][...] = tensor.reshape(shape)
                else:
                    buffers[path][layer] = tensor.reshape(shape[1:])
    params: llama.Params = {}
    for path in list(buffers):
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(buffers.pop(path))
    return params, config


def _shards(params: llama.Params, config: LlamaConfig, limit: float):
    """Groups of tensor names, each at most `limit` bytes (or one tensor)."""
    group, size = [], 0
    for name, path, layer in _names(config):
        leaf = _leaf(params, path)
        nbytes = leaf.nbytes // (1 if layer is None else leaf.shape[0])
        if group and size + nbytes > limit:
            yield group, size
            group, size = [], 0
        group.append((name, path, layer))
        size += nbytes
    yield group, size


def _tensor(params, path, layer, dtype) -> np.ndarray:
    leaf = _leaf(params, path)
    tensor = np.asarray(jax.device_get(leaf if layer is None else leaf[layer]))
    shape = _hf_shape(path, tensor.shape)
    if path[-1] == "kernel":
        tensor = tensor.reshape(shape[::-1]).T
    return np.ascontiguousarray(tensor.astype(dtype, copy=False))


def save_llama(
    params: llama.Params,
    config: LlamaConfig,
    directory: str,
    *,
    tokenizer_source: str | None = None,
    dtype: str | None = None,
    max_shard_bytes: float = 5e9,
) -> None:
    """Writes a directory that `transformers.AutoModelForCausalLM` loads.

    Args:
      params, config: the model.
      directory: made if absent; files of the same names are replaced.
      tokenizer_source: checkpoint whose tokenizer's files are copied, or None.
      dtype: of the files; None keeps the parameters' own.
      max_shard_bytes: of one safetensors file.
    """
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    own = str(_leaf(params, ("embedder", "embedding")).dtype)
    card = llama_config.to_hf(config) | {"dtype": dtype or own}
    (folder / "config.json").write_text(json.dumps(card, indent=2) + "\n")
    groups = list(_shards(params, config, max_shard_bytes))
    weight_map, total = {}, 0
    for number, (group, _) in enumerate(groups, start=1):
        file = "model.safetensors"
        if len(groups) > 1:
            file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {
            name: _tensor(params, path, layer, DTYPES[dtype or own])
            for name, path, layer in group
        }
        save_file(tensors, str(folder / file), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        total += sum(t.nbytes for t in tensors.values())
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    if tokenizer_source:
        origin = resolve(tokenizer_source)
        for name in TOKENIZER_FILES:
            if (origin / name).exists():
                shutil.copyfile(origin / name, folder / name)
