# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.

PEFT keeps A as [rank, inputs] and B as [outputs, rank] for each matrix of each layer;
ours are stacked over layers, A as [layers, *inputs, rank] and B as [layers, rank,
*outputs], heads split.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jax_surgery.checkpoints import safetensors_file
from jax_surgery.models import architectures
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import Row

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Features that are not supported, with the values that turn them off.
PLAIN = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "use_dora": (False, None),
}


class Adapter(NamedTuple):
    """An adapter: W is run as W + alpha / rank A B.

    Attributes:
      factors: {"layers": {block: {matrix: {"lora_a", "lora_b"}}}}, float32.
      rank, alpha: of all matrices.
      matrices: that have factors, in the order of their layout.
    """

    factors: Any
    rank: int
    alpha: float
    matrices: tuple[str, ...]


def _name(row: Row, layer: int, factor: str) -> str:
    module = row.tensor(layer).removesuffix(".weight")
    return f"base_model.model.{module}.{factor}.weight"


def _module(row: Row) -> str:
    """PEFT's name of the module of a matrix, such as "q_proj"."""
    return row.file_name.split(".")[-2]


def _flat(factors: Any, row: Row, config: ModelConfig, rank: int):
    """A [layers, rank, inputs] and B [layers, outputs, rank] of a matrix, on the host."""
    pair = factors["layers"][row.block][row.name]
    inputs, outputs = row.matrix_shape(config)
    a = np.asarray(pair["lora_a"]).reshape(config.num_layers, inputs, rank)
    b = np.asarray(pair["lora_b"]).reshape(config.num_layers, rank, outputs)
    return a.swapaxes(1, 2), b.swapaxes(1, 2)


def save_adapter(
    factors: Any,
    config: ModelConfig,
    directory: str,
    *,
    rank: int,
    alpha: float,
    matrices: Sequence[str],
    base: str = "",
) -> None:
    """Writes a directory that `peft.PeftModel.from_pretrained` loads, in float32.

    Args:
      factors: see `Adapter`; whole on this process.
      config: the model that they belong to.
      directory: local or gs://; made if absent.
      rank, alpha, matrices: see `Adapter`.
      base: name or directory of the model they belong to.
    """
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, every = {}, architectures.matrices(config)
    rows = [every[name] for name in matrices]
    for row in rows:
        a, b = _flat(factors, row, config, rank)
        for layer in range(config.num_layers):
            tensors[_name(row, layer, "lora_A")] = a[layer]
            tensors[_name(row, layer, "lora_B")] = b[layer]
    shapes = {name: array.shape for name, array in tensors.items()}
    kind = np.dtype(np.float32)
    arrays = (np.ascontiguousarray(array, kind) for array in tensors.values())
    safetensors_file.write(folder / WEIGHTS, shapes, kind, arrays)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": [_module(row) for row in rows],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def _settings(folder: epath.Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.exists():
        raise FileNotFoundError(
            f"{file} does not exist; an adapter is a directory with {CONFIG} and "
            f"{WEIGHTS}, as PEFT writes it."
        )
    settings = json.loads(file.read_text())
    if settings.get("peft_type") != "LORA":
        raise ValueError(
            f"{file}: peft_type={settings.get('peft_type')!r}; only LORA is read."
        )
    for field, plain in PLAIN.items():
        if field in settings and settings[field] not in plain:
            raise ValueError(
                f"{file}: {field}={settings[field]!r} is not supported; merge the "
                "adapter with PEFT (merge_and_unload) and load the model that it saves."
            )
    return settings


def load_adapter(directory: str, config: ModelConfig) -> Adapter:
    """Reads an adapter, as NumPy arrays on the host.

    Layers that the adapter leaves out get factors of 0. For rsLoRA, whose
    scale is alpha / sqrt(rank), the returned `alpha` is the one that gives that scale.

    Raises:
      FileNotFoundError: no adapter there.
      ValueError: another kind of adapter, or one of another model.
    """
    folder = epath.Path(directory)
    settings = _settings(folder)
    rank, alpha = settings["r"], float(settings["lora_alpha"])
    if settings.get("use_rslora"):
        alpha *= math.sqrt(rank)
    entries = safetensors_file.read_header(folder / WEIGHTS)
    rows = architectures.matrices(config)
    factors, found, known = {}, [], set()
    for matrix, row in rows.items():
        inputs, outputs = row.matrix_shape(config)
        a = np.zeros((config.num_layers, rank, inputs), np.float32)
        b = np.zeros((config.num_layers, outputs, rank), np.float32)
        for layer in range(config.num_layers):
            for factor, into in (("lora_A", a[layer]), ("lora_B", b[layer])):
                name = _name(row, layer, factor)
                if name not in entries:
                    continue
                entry = entries[name]
                if entry.shape != into.shape:
                    raise ValueError(
                        f"{folder / WEIGHTS}: {name} is {entry.shape}, and this model's "
                        f"would be {into.shape}; it is an adapter of another model."
                    )
                into[:] = safetensors_file.read_rows(entry, 0, entry.shape[0])
                known.add(name)
        if any(_name(row, layer, "lora_B") in known for layer in range(len(a))):
            found.append(matrix)
            block = factors.setdefault(row.block, {})
            block[matrix] = _split(row, a, b, config)
    if strange := sorted(set(entries) - known):
        raise ValueError(
            f"{folder / WEIGHTS} holds {strange[0]}, which this model does not have "
            f"({config.num_layers} layers; matrices {', '.join(map(_module, rows.values()))})."
        )
    return Adapter({"layers": factors}, rank, alpha, tuple(found))


def _split(row: Row, a: np.ndarray, b: np.ndarray, config: ModelConfig):
    """Our factors of PEFT's [layers, rank, inputs] and [layers, outputs, rank]."""
    layers, rank = a.shape[:2]
    shape = row.shape(config)
    a = a.swapaxes(1, 2).reshape(layers, *shape[: row.inputs], rank)
    b = b.swapaxes(1, 2).reshape(layers, rank, *shape[row.inputs :])
    return {"lora_a": np.ascontiguousarray(a), "lora_b": np.ascontiguousarray(b)}
