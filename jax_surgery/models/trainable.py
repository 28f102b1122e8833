# SPDX-License-Identifier: Apache-2.0
"""Which parameters a run changes: all, or some matrices of the upper layers.

What is frozen costs nothing in the backward pass: it stops at the first layer that
moves, and no product is formed for a matrix that stays.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES

Params = Any
Matrices = dict[str, jax.Array]

# The block of a layer that each of its matrices lies in.
BLOCK_OF = {name: row.block for name, row in MATRICES.items()}


def as_matrices(name: str, kernel: jax.Array) -> jax.Array:
    """A stacked kernel as [layers, inputs, outputs]: heads and their width are one
    axis."""
    inputs = math.prod(kernel.shape[1 : 1 + MATRICES[name].inputs])
    return kernel.reshape(len(kernel), inputs, -1)


def matrix_name(path: Any) -> str | None:
    """Which of a layer's matrices lies at a path of the model's tree; None: none.

    Args:
      path: as `jax.tree_util.tree_map_with_path` gives it.
    """
    keys = [getattr(key, "key", None) for key in path]
    within = keys[0] == "layers" and keys[-1] == "kernel"
    return keys[-2] if within and keys[-2] in BLOCK_OF else None


@dataclasses.dataclass(frozen=True)
class Trainable:
    """The parameters that move.

    Attributes:
      first_layer: layers before it stay; 0 or more.
      matrices: names in `BLOCK_OF`; () is every parameter of the model.
    """

    first_layer: int = 0
    matrices: tuple[str, ...] = ()

    def cut(self, tree: Params) -> Params:
        """What moves of parameters or gradients: the part of the model's tree that
        holds the moving matrices, in their own axes, of the moving layers only."""
        layers: Params = {}
        for name in self.matrices:
            kernel = tree["layers"][BLOCK_OF[name]][name]["kernel"]
            block = layers.setdefault(BLOCK_OF[name], {})
            block[name] = {"kernel": kernel[self.first_layer :]}
        return {"layers": layers}

    def paste(self, part: Params, like: Params) -> Params:
        """The inverse of `cut`: a tree like `like`, zero where nothing moves."""
        tree = jax.tree.map(jnp.zeros_like, like)
        for block, matrices in part["layers"].items():
            for name, moved in matrices.items():
                kernel = tree["layers"][block][name]["kernel"]
                tree["layers"][block][name] = {
                    "kernel": kernel.at[self.first_layer :].set(moved["kernel"])
                }
        return tree

    def take(self, tree: Params) -> Matrices:
        """The moving matrices of parameters or gradients, [layers, inputs, outputs]."""
        layers = self.cut(tree)["layers"]
        return {
            name: as_matrices(name, layers[BLOCK_OF[name]][name]["kernel"])
            for name in self.matrices
        }

    def put(self, matrices: Matrices, like: Params) -> Params:
        """The inverse of `take`: a tree like `like`, zero where nothing moves."""
        layers: Params = {}
        for name, moved in matrices.items():
            kernel = like["layers"][BLOCK_OF[name]][name]["kernel"]
            shape = (len(kernel) - self.first_layer, *kernel.shape[1:])
            block = layers.setdefault(BLOCK_OF[name], {})
            block[name] = {"kernel": moved.reshape(shape)}
        return self.paste({"layers": layers}, like)

    def freeze(self, params: Params) -> Params:
        """The parameters, of which only the moving ones have gradients.

        Layers before `first_layer` are cut off in the forward pass
        (`llama.forward`'s `first_trained_layer`), not here.
        """
        if not self.matrices:
            return params
        frozen = jax.lax.stop_gradient(params)
        layers = {key: dict(block) for key, block in frozen["layers"].items()}
        for name in self.matrices:
            block = BLOCK_OF[name]
            layers[block][name] = params["layers"][block][name]
        return frozen | {"layers": layers}

    def mask(self, updates: Params) -> Params:
        """Updates with those of frozen parameters (weight decay's, say) zeroed."""
        if not self.matrices:
            return updates
        return self.put(self.take(updates), updates)


ALL = Trainable()


def resolve(config: ModelConfig, first_layer: int, matrices: str) -> Trainable:
    """The trainable parameters that a config names.

    Args:
      config: the model.
      first_layer: index of the first layer that moves; negative counts from the end.
      matrices: comma-separated names of matrices; "" is every parameter.

    Raises:
      ValueError: a layer the model has not, an unknown matrix, or every parameter of
        only some layers.
    """
    layers = config.num_layers
    if not -layers <= first_layer < layers:
        raise ValueError(
            f"optimizer.first_layer={first_layer}: the model has {layers} layers, so "
            f"use -{layers} to {layers - 1} (negative counts from the end)."
        )
    names = tuple(name.strip() for name in matrices.split(",") if name.strip())
    unknown = [name for name in names if name not in BLOCK_OF]
    if unknown:
        raise ValueError(
            f"optimizer.matrices has {unknown[0]!r}; choose from {', '.join(BLOCK_OF)}."
        )
    first = first_layer % layers
    if first and not names:
        raise ValueError(
            f"optimizer.first_layer={first_layer} with optimizer.matrices='' (every "
            "parameter, the embedding too): name the matrices that move, e.g. "
            "optimizer.matrices=gate,up,down, or let optimizer.first_layer be 0."
        )
    return Trainable(first, tuple(name for name in BLOCK_OF if name in names))
