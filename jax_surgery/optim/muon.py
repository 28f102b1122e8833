# SPDX-License-Identifier: Apache-2.0
"""Muon's step on stacked layers (Jordan et al. 2024; sizes of arXiv 2502.16982).

Every layer's matrix becomes U V^T of its singular value decomposition. On a mesh whole
layers are dealt out over the devices, which then work on their own without exchanging
anything: two exchanges of a part of the stack in place of gathering all of it.
"""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from jax_surgery.models import layout
from jax_surgery.models.trainable import as_matrices, matrix_name
from jax_surgery.optim.newton_schulz import orthogonalise
from jax_surgery.parallel import mesh as meshes

# Root mean square of a step's elements, in learning rates: about AdamW's.
STEP_RMS = 0.2
# Layers are dealt out over these; not over `data`, which may span slower networks.
AXES = ("fsdp", "tp")


def orthogonalise_layers(name: str, matrix_LXY: jax.Array) -> jax.Array:
    """`newton_schulz.orthogonalise` layer by layer, on whichever devices there are.

    Layers one after another, so that only one's temporaries live at a time.

    Args:
      name: the matrix, in `BLOCK_OF`.
      matrix_LXY: the matrix of every layer.
    """
    one_by_one = functools.partial(jax.lax.map, orthogonalise)
    if (devices := meshes.axis_size(*AXES)) == 1:
        return one_by_one(matrix_LXY)
    # The exchange has one step for each axis: the compiler gathers the whole stack
    # where two axes have to change their places at once.
    split = [axis for axis in layout.MATRICES[name].layer_spec if axis]
    stored = (None, *split)
    halfway = ("fsdp", *(None if axis == "fsdp" else axis for axis in split))
    # Layers of zeros, where the number of layers does not divide.
    layers = len(matrix_LXY)
    stack = meshes.constrain(matrix_LXY, *stored)
    stack = jnp.pad(stack, ((0, -layers % devices), (0, 0), (0, 0)))
    for spec in (stored, halfway, (AXES,)):
        stack = meshes.constrain(stack, *spec)
    place = meshes.spec(AXES)
    stack = jax.shard_map(one_by_one, in_specs=place, out_specs=place)(stack)
    for spec in (halfway, stored):
        stack = meshes.constrain(stack, *spec)
    return stack[:layers]


def orthogonal_steps() -> optax.GradientTransformation:
    """The layers' matrices of a tree like the model's, orthogonalised.

    Scaled so that a step's elements have root mean square `STEP_RMS`.
    """

    def step(path, leaf):
        name = matrix_name(path)
        assert name, "the layers' matrices alone are given"
        matrices = as_matrices(name, leaf).astype(jnp.float32)
        scale = STEP_RMS * math.sqrt(max(matrices.shape[1:]))
        steps = scale * orthogonalise_layers(name, matrices)
        return steps.reshape(leaf.shape).astype(leaf.dtype)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(step, updates)
    )
