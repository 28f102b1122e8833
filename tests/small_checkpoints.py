# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints on disk, and edits of them with random factors."""

import dataclasses
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

from jax_surgery.checkpoints import hf_index, hf_layout
from jax_surgery.edits import edit_file
from jax_surgery.edits.edit_file import Edit
from jax_surgery.models import architectures
from jax_surgery.models.config import ModelConfig

CONFIG = ModelConfig(48, 32, 64, 3, 4, 2, 8, bos_token_id=0, eos_token_id=1)
TIED = dataclasses.replace(CONFIG, tie_embeddings=True)
DTYPES = ("float32", "bfloat16", "float16")
SHARD = 20_000  # bytes, of which these models have several


def save(folder, dtype="float32", config=CONFIG, shard=5e9, seed=0):
    """Writes a random checkpoint, in as many files as `hf_weights.save_model` would."""
    rng, kind = np.random.default_rng(seed), hf_index.dtype_named(dtype)
    tensors = hf_layout.tensors(config)
    nbytes = lambda tensor: tensor.size * kind.itemsize
    files = hf_layout.files(tensors, nbytes, shard)
    weight_map = {}
    folder.mkdir(exist_ok=True)
    for file, group in files.items():
        held = {t.name: rng.normal(0, 0.1, t.file_shape).astype(kind) for t in group}
        save_file(held, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / hf_index.INDEX).write_text(json.dumps(index))
    card = architectures.to_hf(config) | {"dtype": dtype}
    (folder / "config.json").write_text(json.dumps(card))
    (folder / "tokenizer.json").write_text('{"not": "read here"}')
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")


def factors(shapes, rank=2, seed=0, size=0.1):
    """Random factors (a [inputs, rank], b [rank, outputs]) by name.

    Args:
      shapes: (inputs, outputs) by name.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(0, size, shape).astype(np.float32)

    return {
        name: (draw(inputs, rank), draw(rank, outputs))
        for name, (inputs, outputs) in shapes.items()
    }


NAMES = {
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.1.self_attn.k_proj.weight": (32, 16),
    "model.layers.1.self_attn.o_proj.weight": (32, 32),
    "model.layers.2.mlp.up_proj.weight": (32, 64),
    "model.layers.2.mlp.down_proj.weight": (64, 32),
}


def edit_of(folder, names=NAMES, scale=1.0, **options) -> Edit:
    """A random edit of a checkpoint."""
    return Edit(
        factors(names, **options),
        scale,
        edit_file.fingerprint(folder, names),
        {"task": "add", "model": "small"},
    )


def contents(folder) -> dict[str, bytes]:
    """Every file below a folder."""
    folder = pathlib.Path(folder)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
