# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.

PEFT keeps A as [rank, inputs] and B as [outputs, rank] for each matrix of each layer;
ours are stacked over layers, heads split (`layout.Row.factors`).
"""

import json
import math
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jax_surgery.checkpoints import safetensors_file
from jax_surgery.checkpoints.hf_layout import Tensor, leaf
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


def _tensors(row: Row, config: ModelConfig, rank: int) -> list[Tensor]:
    """The tensors of a matrix' factors, layer by layer."""
    return [
        Tensor(factor, layer, factor.shape(config, rank))
        for layer in range(config.num_layers)
        for factor in row.factors.values()
    ]


def _module(row: Row) -> str:
    """PEFT's name of the module of a matrix, such as "q_proj"."""
    return row.file_name.split(".")[-2]


def save_adapter(
    adapter: Adapter, config: ModelConfig, directory: str, base: str = ""
) -> None:
    """Writes a directory that `peft.PeftModel.from_pretrained` loads, in float32.

    Args:
      adapter: whole on this process.
      config: the model that it belongs to.
      directory: local or gs://; made if absent.
      base: name or directory of the model.
    """
    folder = epath.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    every = architectures.matrices(config)
    rows = [every[name] for name in adapter.matrices]
    kind = np.dtype(np.float32)
    arrays = {
        tensor.name: tensor.to_file(
            np.asarray(leaf(adapter.factors, tensor.path)[tensor.layer], kind)
        )
        for row in rows
        for tensor in _tensors(row, config, adapter.rank)
    }
    layout = {name: (array.shape, kind) for name, array in arrays.items()}
    safetensors_file.write(folder / WEIGHTS, layout, arrays.values())
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
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
    factors, known = {}, set()
    for matrix, row in rows.items():
        pair = {
            key: np.zeros((config.num_layers, *factor.shape(config, rank)), np.float32)
            for key, factor in row.factors.items()
        }
        for tensor in _tensors(row, config, rank):
            if (entry := entries.get(tensor.name)) is None:
                continue
            if entry.shape != tensor.file_shape:
                raise ValueError(
                    f"{folder / WEIGHTS}: {tensor.name} is {entry.shape}, and this "
                    f"model's would be {tensor.file_shape}; it is an adapter of another "
                    "model."
                )
            found = safetensors_file.read_rows(entry, 0, entry.shape[0])
            pair[tensor.path[-1]][tensor.layer] = tensor.from_file(found)
            known.add(tensor.name)
            factors.setdefault(row.block, {})[matrix] = pair
    if strange := sorted(set(entries) - known):
        raise ValueError(
            f"{folder / WEIGHTS} holds {strange[0]}, which this model does not have "
            f"({config.num_layers} layers; matrices {', '.join(map(_module, rows.values()))})."
        )
    matrices = tuple(name for block in factors.values() for name in block)
    return Adapter({"layers": factors}, rank, alpha, matrices)
