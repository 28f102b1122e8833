# SPDX-License-Identifier: Apache-2.0
"""Adafactor on stacked layers (Shazeer and Stern 2018, arXiv 1804.04235).

The second moment of a matrix is held as the means of its rows and of its columns. optax
takes a leaf's two largest axes for these, which of a kernel [layers, model, heads,
width] are not the matrix' own. Here every layer is one matrix [inputs, outputs], and
each layer's statistics and clipping are its own, as if the layers were not stacked.
"""

from typing import Any, NamedTuple, cast

import jax
import optax

from jax_surgery.models.trainable import as_matrices, matrix_name

CLIP_RMS = 1.0  # of a matrix' step, in learning rates


class AdafactorState(NamedTuple):
    """optax' states, of the layers (each array stacked over them) and of the rest."""

    layers: Any
    rest: Any


def scale_by_adafactor() -> optax.GradientTransformation:
    """Gradients over their factored root mean squares.

    Decay 1 - t^-0.8 at step t; no momentum; not multiplied by the parameters' scale, so
    that a learning rate has the same meaning as for AdamW. Matrices with an axis below 128,
    and norms, hold every element's second moment.
    """
    single = optax.chain(
        optax.scale_by_factored_rms(), optax.clip_by_block_rms(CLIP_RMS)
    )

    def view(path, leaf):
        name = matrix_name(path)
        return leaf if name is None else as_matrices(name, leaf)

    def split(tree):
        tree = dict(jax.tree_util.tree_map_with_path(view, tree))
        return tree.pop("layers"), tree

    def init(params):
        layers, rest = split(params)
        return AdafactorState(jax.vmap(single.init)(layers), single.init(rest))

    def update(updates, state, params=None):
        layers, rest = zip(split(updates), split(params), strict=True)
        stepped, in_layers = jax.vmap(single.update)(layers[0], state.layers, layers[1])
        others, in_rest = single.update(rest[0], state.rest, rest[1])
        steps = jax.tree.map(
            lambda step, like: step.reshape(like.shape),
            dict(cast(Any, others)) | {"layers": stepped},  # optax says: any tree
            updates,
        )
        return steps, AdafactorState(in_layers, in_rest)

    return optax.GradientTransformation(init, update)
