# SPDX-License-Identifier: Apache-2.0
"""Which parameters a run changes: all, or some matrices of the upper layers.

What is frozen costs nothing in the backward pass: it stops at the first layer that
moves, and no product is formed for a frozen matrix.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_surgery.config import names
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import MATRICES
from jax_surgery.parallel import mesh as meshes

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
      first_layer: layers before it are frozen; 0 or more.
      matrices: names in `BLOCK_OF`, whose biases are frozen; () is every parameter of
        the model.
    """

    first_layer: int = 0
    matrices: tuple[str, ...] = ()

    def cut(self, tree: Params) -> Params:
        """The moving part of parameters, gradients or low-rank factors: the part of
        the tree that holds the moving matrices (or their factors), in their own axes,
        of the moving layers only."""
        layers: Params = {}
        for name in self.matrices:
            matrix = tree["layers"][BLOCK_OF[name]][name]
            block = layers.setdefault(BLOCK_OF[name], {})
            block[name] = {
                key: leaf[self.first_layer :]
                for key, leaf in matrix.items()
                if key != "bias"
            }
        return {"layers": layers}

    def paste(self, part: Params, like: Params) -> Params:
        """The inverse of `cut`: a tree like `like`, zero where nothing moves."""
        return self._put_in(part, jax.tree.map(jnp.zeros_like, like))

    def _put_in(self, part: Params, tree: Params) -> Params:
        """The tree with what `cut` gives of it replaced, in place where it is donated."""
        tree = jax.tree.map(lambda leaf: leaf, tree)  # dicts of its own
        for block, matrices in part["layers"].items():
            for name, moved in matrices.items():
                whole = tree["layers"][block][name]
                for key, leaf in moved.items():
                    whole[key] = jax.lax.dynamic_update_slice_in_dim(
                        whole[key], leaf.astype(whole[key].dtype), self.first_layer, 0
                    )
        return tree

    def replaced(self, part: Params, tree: Params) -> Params:
        """The tree with what `cut` gave of another one in the place of its own."""
        return self._put_in(part, tree)

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
            # As its parameter lies, or the compiler makes copies on every device.
            moved = meshes.constrain(moved, *MATRICES[name].stack_spec)
            kernel = like["layers"][BLOCK_OF[name]][name]["kernel"]
            shape = (len(kernel) - self.first_layer, *kernel.shape[1:])
            block = layers.setdefault(BLOCK_OF[name], {})
            block[name] = {"kernel": moved.reshape(shape)}
        return self.paste({"layers": layers}, like)

    def moves(self, path: tuple[str, ...]) -> bool:
        """Whether the parameter at a path of the model's tree moves, in some layer."""
        of_matrix = path[0] == "layers" and path[-1] != "bias"
        return not self.matrices or (of_matrix and path[-2] in self.matrices)

    def still(self, params: Params) -> frozenset[Any]:
        """The paths, as `jax.tree_util` has them, of the parameters that move in no
        layer."""
        paths = jax.tree_util.tree_leaves_with_path(params)
        return frozenset(
            path for path, _ in paths if not self.moves(tuple(k.key for k in path))
        )

    def freeze(self, params: Params) -> Params:
        """The parameters, of which only the moving ones have gradients.

        Layers before `first_layer` are cut off in the forward pass
        (`decoder.forward_packed`'s `first_trained_layer`), not here.
        """

        def of(path, leaf):
            moves = self.moves(tuple(key.key for key in path))
            return leaf if moves else jax.lax.stop_gradient(leaf)

        return jax.tree_util.tree_map_with_path(of, params)

    def part(self, tree: Params) -> Params:
        """`cut`, and everything where everything moves."""
        return self.cut(tree) if self.matrices else tree

    def whole(self, part: Params, like: Params) -> Params:
        """The inverse of `part`: a tree like `like`, zero where nothing moves."""
        return self.paste(part, like) if self.matrices else part

    def moved(self, params: Params, updates: Params) -> Params:
        """The parameters with their updates; frozen ones, whose updates may come from
        weight decay, are as they were."""
        moved: Params = optax.apply_updates(self.part(params), self.part(updates))
        return self._put_in(moved, params) if self.matrices else moved


ALL = Trainable()


def matrix_names(given: str, field: str) -> tuple[str, ...]:
    """The names in a comma-separated list, in the order of the layout.

    Args:
      given: such as "gate, up"; "" has none.
      field: the list's name in a config, for the message.

    Raises:
      ValueError: a name that no matrix has.
    """
    listed = names(given)
    if unknown := [name for name in listed if name not in MATRICES]:
        raise ValueError(
            f"{field} has {unknown[0]!r}; choose from {', '.join(MATRICES)}."
        )
    return tuple(name for name in MATRICES if name in listed)


def resolve(
    config: ModelConfig,
    first_layer: int,
    matrices: str,
    *,
    section: str = "config.optimizer",
    rank: int = 0,
    only_matrices: bool = False,
) -> Trainable:
    """Decides which parameters move, from what a config names.

    Args:
      config: the model.
      first_layer: index of the first layer that moves; negative counts from the end.
      matrices: comma-separated names of matrices; "" is everything that can move.
      section: of the config that has `first_layer` and `matrices`, for messages. With
        low-rank deltas the matrices are those of config.lora.
      rank: of the low-rank deltas that move in place of the matrices; 0 for none.
      only_matrices: whether nothing but matrices of layers can move (preconditioned
        directions, subspaces, low-rank deltas); else "" is every parameter.

    Raises:
      ValueError: a layer that the model does not have, an unknown matrix, a rank that
        a matrix cannot have, or every parameter of only some layers.
    """
    layers, field = config.num_layers, f"{section}.first_layer"
    if not -layers <= first_layer < layers:
        raise ValueError(
            f"{field}={first_layer}: the model has {layers} layers, so "
            f"use -{layers} to {layers - 1} (negative counts from the end)."
        )
    of_matrices = "config.lora.matrices" if rank else f"{section}.matrices"
    moving = matrix_names(matrices, of_matrices)
    if not moving and (rank or only_matrices):
        moving = tuple(MATRICES)
    first = first_layer % layers
    if first and not moving:
        raise ValueError(
            f"{field}={first_layer} with {of_matrices}='' (every parameter, the "
            f"embedding too): name the matrices that move, e.g. "
            f"{of_matrices}=gate,up,down, or use {field}=0."
        )
    for name in moving if rank else ():
        rows, columns = MATRICES[name].matrix_shape(config)
        if rank > min(rows, columns):
            raise ValueError(
                f"config.lora.rank={rank} is more than matrix {name} of {rows} x "
                f"{columns} can have; use 1 to {min(rows, columns)}."
            )
    return Trainable(first, moving)
