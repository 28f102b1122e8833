# SPDX-License-Identifier: Apache-2.0
"""The layout table: one row for each parameter of a decoder, and what follows from it.

Everything that must know how a parameter is named, shaped, sharded or used reads these
rows: checkpoints (names and axes of files), sharding, low-rank factors, optimizers
(matrices as [inputs, outputs]), statistics of inputs and operation counts.

Letters of axes: L layers, D model width, N heads, K key-value heads, H head width,
F hidden width of the MLP, V vocabulary, R rank of low-rank deltas.
"""

import dataclasses
import math
from collections.abc import Iterable

from jax.sharding import PartitionSpec as P

from jax_surgery.models.config import ModelConfig

# The field of a config that says how long an axis is.
FIELDS = {
    "L": "num_layers",
    "D": "hidden_size",
    "N": "num_heads",
    "K": "num_kv_heads",
    "H": "head_dim",
    "F": "intermediate_size",
    "V": "vocab_size",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter, stacked over layers where each layer has one.

    Attributes:
      path: its keys in the tree of parameters: ("layers", block, matrix, "kernel" or
        "bias"), or ending in a module and "scale" or "embedding".
      file_name: the name of its tensor in a Hugging Face checkpoint, with "{layer}" for the
        number of the layer where it is stacked.
      axes: a letter for each of its axes; a stacked one begins with L.
      spec: the mesh axis that splits each of its axes.
      inputs: how many axes after L are the inputs of a matrix; 0 for other parameters.
      statistic: which of the layer's activations a stacked matrix is applied to; its
        second moments are this statistic (see `decoder.forward_with_moments`). "" for others.
    """

    path: tuple[str, ...]
    file_name: str
    axes: str
    spec: P
    inputs: int = 0
    statistic: str = ""

    @property
    def stacked(self) -> bool:
        """Whether each layer has one."""
        return self.axes.startswith("L")

    @property
    def is_bias(self) -> bool:
        """Whether it is added to what a matrix gives; files merge its heads."""
        return self.path[-1] == "bias"

    @property
    def name(self) -> str:
        """The name of the matrix or module: the key before the last."""
        return self.path[-2]

    @property
    def block(self) -> str:
        """The module of a layer that a matrix lies in."""
        return self.path[1]

    @property
    def letters(self) -> str:
        """The letters of its axes, without L."""
        return self.axes[self.stacked :]

    @property
    def layer_spec(self) -> P:
        """The spec of one layer's part, or of a parameter that is not stacked."""
        return P(*tuple(self.spec)[self.stacked :])

    @property
    def stack_spec(self) -> P:
        """The spec of a matrix as [layers, inputs, outputs]: heads and their width are one
        axis, of which the mesh splits at most one part."""
        axes = tuple(self.layer_spec)
        parts = (axes[: self.inputs], axes[self.inputs :])
        return P(None, *(next(filter(None, part), None) for part in parts))

    @property
    def factors(self) -> dict[str, "Row"]:
        """Rows of a low-rank delta's factors: `lora_a` [L, *inputs, R] and `lora_b`
        [L, R, *outputs], split over the mesh as the matrix' own axes are. Their files
        are PEFT's."""
        letters, axes, cut = self.letters, tuple(self.layer_spec), self.inputs
        module = self.file_name.removesuffix(".weight")

        def factor(key, suffix, letters, axes, inputs):
            return Row(
                (*self.path[:-1], key),
                f"base_model.model.{module}.{suffix}.weight",
                "L" + letters,
                P(None, *axes),
                inputs,
            )

        a = ("lora_a", "lora_A", letters[:cut] + "R", (*axes[:cut], None), cut)
        b = ("lora_b", "lora_B", "R" + letters[cut:], (None, *axes[cut:]), 1)
        return {"lora_a": factor(*a), "lora_b": factor(*b)}

    def shape(self, config: ModelConfig, rank: int = 0) -> tuple[int, ...]:
        """The shape of one layer's part, or of a parameter that is not stacked.

        Args:
          config: the model.
          rank: of the low-rank deltas, for their factors.
        """
        sizes = {letter: getattr(config, field) for letter, field in FIELDS.items()}
        return tuple((sizes | {"R": rank})[letter] for letter in self.letters)

    def matrix_shape(self, config: ModelConfig) -> tuple[int, int]:
        """(inputs, outputs) of a matrix, heads and their width being one axis."""
        shape = self.shape(config)
        return math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :])

    def tensor(self, layer: int | None = None) -> str:
        """The name of a layer's tensor in a checkpoint."""
        return self.file_name.format(layer=layer)


Layout = tuple[Row, ...]


def row(
    path: str, file_name: str, axes: str, mesh_axes: str, statistic: str = "", inputs=1
) -> Row:
    """A row from its short form.

    Args:
      path: keys with slashes between; one that begins with "layers" is a parameter that
        each layer has.
      file_name: without ".weight" or ".bias", and below "model.layers.{layer}" for such a one.
      axes: letters, without L.
      mesh_axes: the mesh axis of each of them, "-" where none splits it; with blanks
        between.
      statistic: see `Row`.
      inputs: see `Row`; of a matrix ("kernel"), others have none.
    """
    keys = tuple(path.split("/"))
    spec = tuple(None if axis == "-" else axis for axis in mesh_axes.split())
    if keys[0] == "layers":
        file_name, axes = "model.layers.{layer}." + file_name, "L" + axes
        spec = (None, *spec)
    inputs = inputs if keys[-1] == "kernel" else 0
    file_name += ".bias" if keys[-1] == "bias" else ".weight"
    return Row(keys, file_name, axes, P(*spec), inputs, statistic)


EMBEDDING = row("embedder/embedding", "model.embed_tokens", "VD", "tp fsdp")
FINAL_NORM = row("final_norm/scale", "model.norm", "D", "-")
HEAD = row("head/kernel", "lm_head", "DV", "fsdp tp")
# The layer of Llama and of most decoders after it: rotary attention and a gated MLP, each behind a
# norm. The rows of a layer stand in the order in which they are applied; matrices of
# the same statistic are applied at once.
DECODER: Layout = (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    row("layers/attention_norm/scale", "input_layernorm", "D", "-"),
    row(
        "layers/attention/q/kernel",
        "self_attn.q_proj",
        "DNH",
        "fsdp tp -",
        "attention_in",
    ),
    row(
        "layers/attention/k/kernel",
        "self_attn.k_proj",
        "DKH",
        "fsdp tp -",
        "attention_in",
    ),
    row(
        "layers/attention/v/kernel",
        "self_attn.v_proj",
        "DKH",
        "fsdp tp -",
        "attention_in",
    ),
    row(
        "layers/attention/o/kernel",
        "self_attn.o_proj",
        "NHD",
        "tp - fsdp",
        "attention_out",
        inputs=2,  # heads and their width
    ),
    row("layers/mlp_norm/scale", "post_attention_layernorm", "D", "-"),
    row("layers/mlp/gate/kernel", "mlp.gate_proj", "DF", "fsdp tp", "mlp_in"),
    row("layers/mlp/up/kernel", "mlp.up_proj", "DF", "fsdp tp", "mlp_in"),
    row("layers/mlp/down/kernel", "mlp.down_proj", "FD", "tp fsdp", "mlp_hidden"),
)


# What norms the queries and keys of each head (`blocks.NormedAttention`).
QUERY_KEY_NORMS: Layout = (
    row("layers/attention/q_norm/scale", "self_attn.q_norm", "H", "-"),
    row("layers/attention/k_norm/scale", "self_attn.k_norm", "H", "-"),
)


def matrices(layout: Layout) -> dict[str, Row]:
    """The matrices of a layer by name, in the order in which they are applied."""
    return {e.name: e for e in layout if e.stacked and e.path[-1] == "kernel"}


# The matrices that methods change, which all architectures here have.
MATRICES = matrices(DECODER)


def _bias(matrix: Row) -> Row:
    """The row of what is added to a matrix' outputs: its axes and places are theirs, but
    that no bias is split over fsdp."""
    axes = zip(matrix.letters, tuple(matrix.layer_spec), strict=True)
    outputs = list(axes)[matrix.inputs :]
    return row(
        "/".join((*matrix.path[:-1], "bias")),
        matrix.file_name.removeprefix("model.layers.{layer}.").removesuffix(".weight"),
        "".join(letter for letter, _ in outputs),
        " ".join("tp" if axis == "tp" else "-" for _, axis in outputs),
    )


# The biases that matrices may have (`ModelConfig.biases`), by the matrix' name.
BIASES = {name: _bias(matrix) for name, matrix in MATRICES.items()}


def outputs(config: ModelConfig, names: Iterable[str]) -> dict[str, int]:
    """Width of the outputs of each of some matrices."""
    return {name: MATRICES[name].matrix_shape(config)[1] for name in names}


def statistics(config: ModelConfig, names: Iterable[str]) -> dict[str, int]:
    """Width of each statistic that some matrices have, in the order of application."""
    return {
        entry.statistic: entry.matrix_shape(config)[0]
        for name, entry in MATRICES.items()
        if name in set(names)
    }
