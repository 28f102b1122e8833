# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in PEFT's format: adapter_config.json and adapter_model.safetensors.

PEFT keeps A as [rank, inputs] and B as [outputs, rank] for each matrix of each layer;
ours are stacked over layers, heads split (`layout.Row.factors`).
"""

import json
import math
import re
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jax_surgery.checkpoints import hf_index, safetensors_file
from jax_surgery.checkpoints.hf_layout import Tensor, leaf
from jax_surgery.checkpoints.safetensors_file import Entry
from jax_surgery.models import architectures
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import Row
from jax_surgery.storage import files

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What is read of adapter_config.json.
READ = ("peft_type", "r", "lora_alpha", "use_rslora")
# Fields that change nothing of what an adapter computes: where it came from, how it was
# trained, and to which matrices it belongs, which the weights' names say too.
OF_NO_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
)
# The only values of further fields that are understood. Every other field that is set is
# refused: a newer PEFT may have made it. How factors began is of no effect, but for ways
# that change the model's own weights too (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA).
PLAIN = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
UNSET = (None, False, [], {}, "")
PARTNER = {"lora_A": "lora_B", "lora_B": "lora_A"}


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
    files.write_text(folder / CONFIG, json.dumps(settings, indent=2) + "\n")


def _settings(folder: epath.Path) -> tuple[int, float]:
    """Rank, and the alpha for which alpha / rank is the scale.

    Raises:
      FileNotFoundError: no adapter there.
      ValueError: another kind of adapter, or a field that is not understood.
    """
    file = folder / CONFIG
    if not file.exists():
        raise FileNotFoundError(
            f"{file} does not exist; an adapter is a directory with {CONFIG} and "
            f"{WEIGHTS}, as PEFT writes it."
        )
    settings = hf_index.read_json(file)
    if settings.get("peft_type") != "LORA":
        raise ValueError(
            f"{file}: peft_type={settings.get('peft_type')!r}; only LORA is read."
        )
    for field, value in settings.items():
        if field in READ + OF_NO_EFFECT:
            continue
        if not any(
            value is plain or value == plain for plain in PLAIN.get(field, UNSET)
        ):
            raise ValueError(
                f"{file}: {field}={value!r} is not supported; merge the "
                "adapter with PEFT (merge_and_unload) and load the model that it saves."
            )
    rank: Any = settings.get("r")
    alpha: Any = settings.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise ValueError(f"{file}: r={rank!r} must be a whole number of 1 or more.")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ValueError(f"{file}: lora_alpha={alpha!r} must be a number.")
    return rank, alpha * (math.sqrt(rank) if settings.get("use_rslora") else 1.0)


def _entries(folder: epath.Path) -> dict[str, Entry]:
    """Where the adapter's tensors lie.

    Raises:
      FileNotFoundError: there are none.
      ValueError: they are pickled, damaged, or no floating-point numbers.
    """
    file = folder / WEIGHTS
    if not file.exists():
        pickled = folder / "adapter_model.bin"
        if pickled.exists():
            raise ValueError(
                f"{folder} holds its weights as {pickled.name} (pickled PyTorch) only, "
                "which is not read. Convert it once, where PyTorch is installed: python "
                '-c "import torch; from safetensors.torch import save_file; '
                f"save_file(torch.load('{pickled}', weights_only=True), '{file}')\""
            )
        raise FileNotFoundError(
            f"{file} does not exist; an adapter is a directory with {CONFIG} and "
            f"{WEIGHTS}, as PEFT writes it."
        )
    entries = safetensors_file.read_header(file)
    for name, entry in entries.items():
        if entry.kind not in safetensors_file.DTYPES:
            raise ValueError(
                f"{file}: {name} is {entry.kind}; factors are one of "
                f"{', '.join(safetensors_file.DTYPES)}."
            )
    return entries


def load_adapter(directory: str, config: ModelConfig) -> Adapter:
    """Reads an adapter, as NumPy arrays on the host.

    Layers that the adapter leaves out get factors of 0. For rsLoRA, whose
    scale is alpha / sqrt(rank), the returned `alpha` is the one that gives that scale.

    Raises:
      FileNotFoundError: no adapter there.
      ValueError: another kind of adapter, or one of another model.
    """
    folder = epath.Path(directory)
    rank, alpha = _settings(folder)
    entries = _entries(folder)
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
    for name in sorted(known):
        other = re.sub("lora_[AB]", lambda found: PARTNER[found[0]], name)
        if other not in known:
            raise ValueError(
                f"{folder / WEIGHTS} holds {name} and not {other}: it is damaged or was "
                "not copied completely. Copy it again."
            )
    if strange := sorted(set(entries) - known):
        raise ValueError(
            f"{folder / WEIGHTS} holds {strange[0]}, which this model does not have "
            f"({config.num_layers} layers; matrices {', '.join(map(_module, rows.values()))})."
        )
    matrices = tuple(name for block in factors.values() for name in block)
    return Adapter({"layers": factors}, rank, alpha, matrices)
