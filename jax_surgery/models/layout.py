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
      path: its keys in the tree of parameters, below "layers" where it is stacked:
        (block, matrix, "kernel"), or (module, "scale" or "embedding").
      file_name: the name of its tensor in a Hugging Face checkpoint, with "{layer}" for the
        number of the layer where it is stacked.
      axes: letters of its axes, with blanks between; a stacked one begins with L.
      spec: the mesh axis that splits each of its axes.
      inputs: how many axes after L are the inputs of a matrix; 0 for other parameters.
      statistic: which of the layer's activations a stacked matrix is applied to; its
        second moments are this statistic (see `decoder.second_moments`). "" for others.
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
    def is_matrix(self) -> bool:
        """Whether it is a matrix of every layer, as a method may change it."""
        return self.stacked and self.path[-1] == "kernel"

    @property
    def name(self) -> str:
        """The name of the matrix or module: the key before the last."""
        return self.path[-2]

    @property
    def block(self) -> str:
        """The module of a layer that a matrix lies in."""
        return self.path[0]

    @property
    def tree_path(self) -> tuple[str, ...]:
        """Its keys from the root of the parameters on."""
        return ("layers", *self.path) if self.stacked else self.path

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of its axes, without L."""
        return tuple(self.axes.split())[self.stacked :]

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
        [L, R, *outputs], split over the mesh as the matrix' own axes are."""
        letters, axes, cut = self.letters, tuple(self.layer_spec), self.inputs

        def factor(key, letters, axes):
            return dataclasses.replace(
                self,
                path=(*self.path[:-1], key),
                file_name="",
                axes=" ".join(("L", *letters)),
                spec=P(None, *axes),
            )

        return {
            "lora_a": factor("lora_a", (*letters[:cut], "R"), (*axes[:cut], None)),
            "lora_b": factor("lora_b", ("R", *letters[cut:]), (None, *axes[cut:])),
        }

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """The shape of one layer's part, or of a parameter that is not stacked."""
        return tuple(getattr(config, FIELDS[letter]) for letter in self.letters)

    def matrix_shape(self, config: ModelConfig) -> tuple[int, int]:
        """(inputs, outputs) of a matrix, heads and their width being one axis."""
        shape = self.shape(config)
        return math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :])

    def tensor(self, layer: int | None = None) -> str:
        """The name of a layer's tensor in a checkpoint."""
        return self.file_name.format(layer=layer)


Layout = tuple[Row, ...]


def row(
    path: str,
    file_name: str,
    axes: str,
    mesh_axes: str,
    statistic: str = "",
    inputs: int | None = None,
) -> Row:
    """A row from its short form.

    Args:
      path: keys with slashes between.
      file_name: without ".weight".
      axes: letters with blanks between.
      mesh_axes: the mesh axis of each of them, "-" where none splits it.
      statistic: see `Row`.
      inputs: see `Row`; None is 1 for a matrix ("kernel") and 0 for others.
    """
    keys = tuple(path.split("/"))
    spec = P(*(None if axis == "-" else axis for axis in mesh_axes.split()))
    if inputs is None:
        inputs = int(keys[-1] == "kernel")
    return Row(keys, file_name + ".weight", axes, spec, inputs, statistic)


def layer_row(path: str, file_name: str, axes: str, mesh_axes: str, *rest) -> Row:
    """The row of a parameter that each layer has; `axes` are those of one layer."""
    file_name = "model.layers.{layer}." + file_name
    return row(path, file_name, "L " + axes, "- " + mesh_axes, *rest)


EMBEDDING = row("embedder/embedding", "model.embed_tokens", "V D", "tp fsdp")
FINAL_NORM = row("final_norm/scale", "model.norm", "D", "-")
HEAD = row("head/kernel", "lm_head", "D V", "fsdp tp")
# The layer of Llama and of most decoders after it: rotary attention and a gated MLP, each behind a
# norm. The rows of a layer stand in the order in which they are applied; matrices of
# the same statistic are applied at once.
DECODER: Layout = (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    layer_row("attention_norm/scale", "input_layernorm", "D", "-"),
    layer_row(
        "attention/q/kernel", "self_attn.q_proj", "D N H", "fsdp tp -", "attention_in"
    ),
    layer_row(
        "attention/k/kernel", "self_attn.k_proj", "D K H", "fsdp tp -", "attention_in"
    ),
    layer_row(
        "attention/v/kernel", "self_attn.v_proj", "D K H", "fsdp tp -", "attention_in"
    ),
    layer_row(
        "attention/o/kernel",
        "self_attn.o_proj",
        "N H D",
        "tp - fsdp",
        "attention_out",
        2,  # heads and their width are both inputs
    ),
    layer_row("mlp_norm/scale", "post_attention_layernorm", "D", "-"),
    layer_row("mlp/gate/kernel", "mlp.gate_proj", "D F", "fsdp tp", "mlp_in"),
    layer_row("mlp/up/kernel", "mlp.up_proj", "D F", "fsdp tp", "mlp_in"),
    layer_row("mlp/down/kernel", "mlp.down_proj", "F D", "tp fsdp", "mlp_hidden"),
)


def matrices(layout: Layout) -> dict[str, Row]:
    """The matrices of a layer by name, in the order in which they are applied."""
    return {entry.name: entry for entry in layout if entry.is_matrix}


# The matrices that methods change, which all architectures here have.
MATRICES = matrices(DECODER)


def statistics(config: ModelConfig, names: Iterable[str]) -> dict[str, int]:
    """Width of each statistic that some matrices have, in the order of application."""
    return {
        entry.statistic: entry.matrix_shape(config)[0]
        for name, entry in MATRICES.items()
        if name in set(names)
    }


def table(layout: Layout) -> dict[tuple[str, ...], Row]:
    """The rows by path, those of low-rank factors beside every matrix included."""
    found = {entry.path: entry for entry in layout}
    for entry in matrices(layout).values():
        found |= {factor.path: factor for factor in entry.factors.values()}
    return found
