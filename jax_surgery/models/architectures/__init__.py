# SPDX-License-Identifier: Apache-2.0
"""The architectures whose checkpoints are read, trained and written.

A new one is a file like `qwen3.py` here and a line in the table. Code outside the
package adds `ARCHITECTURES[name] = Architecture(...)` before it loads a model.
"""

import functools

from jax_surgery.models import layout
from jax_surgery.models.architectures.base import Architecture
from jax_surgery.models.architectures.gemma2 import GEMMA2
from jax_surgery.models.architectures.gemma3 import GEMMA3
from jax_surgery.models.architectures.llama import LLAMA
from jax_surgery.models.architectures.mistral import MISTRAL
from jax_surgery.models.architectures.qwen2 import QWEN2
from jax_surgery.models.architectures.qwen3 import QWEN3
from jax_surgery.models.config import ModelConfig

# `model_type` of a config.json -> the architecture.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
}
# Fields that stand beside the text part of a model, and count for it.
BESIDE_TEXT = (
    "bos_token_id",
    "eos_token_id",
    "quantization_config",
    "tie_word_embeddings",
)


def _named(model_type: object) -> Architecture:
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ValueError(
            f"config.json has model_type={model_type!r}; supported are "
            f"{', '.join(ARCHITECTURES)}. For another architecture add a file to "
            "jax_surgery/models/architectures."
        )
    return ARCHITECTURES[model_type]


def of(config: ModelConfig) -> Architecture:
    """The architecture of a model; ValueError where it is not in the table."""
    return _named(config.architecture)


def from_hf(raw: dict) -> ModelConfig:
    """Reads a `config.json`.

    Raises:
      ValueError: an architecture that is not in the table, or a feature that it lacks
        here.
    """
    raw = _text_part(raw)
    return _named(raw.get("model_type")).read(raw)


def _text_part(raw: dict) -> dict:
    """The fields of the text part of a model that sees images too; of others, theirs."""
    kind = raw.get("model_type")
    parts = [a.model_type for a in ARCHITECTURES.values() if kind and a.part_of == kind]
    if not parts:
        return raw
    text = raw.get("text_config")
    if not isinstance(text, dict):
        raise ValueError(  # noqa: TRY004, of a file, which users read in one line
            f"config.json of a {kind} has text_config={text!r}; take the file that the "
            "checkpoint came with."
        )
    beside = {name: raw[name] for name in BESIDE_TEXT if name in raw}
    return {"model_type": parts[0]} | text | beside


def to_hf(config: ModelConfig) -> dict:
    """The `config.json` that `transformers.AutoModelForCausalLM` reads."""
    return of(config).write(config)


def layout_of(config: ModelConfig) -> layout.Layout:
    """The rows of a model's parameters: no output head where it is tied to the
    embedding, and those biases that it has."""
    rows = (
        row
        for row in of(config).layout
        if not (config.tie_embeddings and row is layout.HEAD)
    )
    return (*rows, *(layout.BIASES[name] for name in config.biases))


def matrices(config: ModelConfig) -> dict[str, layout.Row]:
    """The matrices of a model's layers by name, in the order in which they apply."""
    return layout.matrices(of(config).layout)


def rows() -> dict[tuple[str, ...], layout.Row]:
    """The layout rows of all architectures by path, with those of low-rank factors.

    Raises:
      ValueError: two architectures lay one path out in different ways.
    """
    return _rows(tuple(ARCHITECTURES.values()))


@functools.cache
def _rows(architectures: tuple[Architecture, ...]):
    found: dict[tuple[str, ...], layout.Row] = {}
    for architecture in architectures:
        factors = [
            factor
            for matrix in layout.matrices(architecture.layout).values()
            for factor in matrix.factors.values()
        ]
        for row in (*architecture.layout, *layout.BIASES.values(), *factors):
            other = found.setdefault(row.path, row)
            if (other.axes, other.spec) != (row.axes, row.spec):
                raise ValueError(
                    f"architecture {architecture.model_type!r} lays "
                    f"{'/'.join(row.path)} out as {row.axes} {row.spec}, another as "
                    f"{other.axes} {other.spec}; use another path for it."
                )
    return found
