# SPDX-License-Identifier: Apache-2.0
"""The dtypes in which a model is exported, and rounding to them.

A model goes out in the dtypes that it came in. Steps change weights by less than half the
spacing of bfloat16 (0.2 to 0.4 % of a weight), and rounding to the nearest number would
undo every such change. So weights are rounded to one of their two neighbours, correct on
average (`optim.rounding`); what a run left alone is such a number already, and stays.
"""

import collections
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.checkpoints import hf_index, hf_layout, hf_weights
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim.rounding import round_stochastically

Dtypes = dict[tuple[str, ...], np.dtype]  # by path of a parameter


def of_export(source: str, config: ModelConfig, asked: str) -> Dtypes:
    """The dtype of each exported parameter.

    Args:
      source: the checkpoint that the model came from.
      config: the model.
      asked: a config's `save_dtype`; "" takes the files' own (the widest, where layers differ).
    """
    tensors = hf_layout.tensors(config)
    if asked:
        return {tensor.path: hf_index.dtype_named(asked) for tensor in tensors}
    entries = hf_index.entries_of(hf_weights.resolve(source))
    found: Dtypes = {}
    sizes: collections.Counter = collections.Counter()
    for tensor in tensors:
        if entry := entries.get(tensor.name):
            # float64 is read and not written.
            own = hf_index.DTYPES.get(entry.dtype.name, np.dtype(np.float32))
            found[tensor.path] = _wider(found.get(tensor.path, own), own)
            sizes[own] += tensor.size
    # What no file holds (biases of 0, an embedding that is the head) as most weights.
    most = sizes.most_common(1)[0][0]
    return {tensor.path: found.get(tensor.path, most) for tensor in tensors}


def _wider(one: np.dtype, other: np.dtype) -> np.dtype:
    """A dtype that holds both: float32 where 16 bits differ."""
    return one if one == other else np.dtype(jnp.promote_types(one, other))


def rounded(params: Any, dtypes: Mapping[tuple[str, ...], np.dtype]) -> Any:
    """The parameters, in their own dtypes, as the exported ones hold them.

    The random bits are a function of the parameter and the element, so they are the same
    on any mesh. No more than a layer is in memory twice.

    Args:
      params: donated where they are wider than what is exported. Numbers too large for
        their dtype stay, and `hf_weights.save_model` refuses them.
      dtypes: of every parameter, see `of_export`.
    """

    def of(path, leaf):
        keys = tuple(key.key for key in path)
        kind = dtypes[keys]
        if leaf.dtype != jnp.float32 or kind == np.float32:
            return leaf
        seed = np.uint32(zlib.crc32("/".join(keys).encode()))
        return _program(kind, leaf.sharding)(leaf, seed)

    return jax.tree_util.tree_map_with_path(of, params)


@functools.cache
def _program(kind: np.dtype, place: Any):
    def whole(leaf, key):
        near = round_stochastically(leaf, key, kind).astype(leaf.dtype)
        # What is too large for the dtype stays, and `hf_layout.convert` refuses it.
        return jnp.where(jnp.isfinite(leaf) & ~jnp.isfinite(near), leaf, near)

    def of_leaf(leaf, seed):
        # A fixed implementation, so that bits do not depend on JAX's configuration.
        key = jax.random.key(seed, impl="threefry2x32")
        if leaf.ndim < 3:
            return whole(leaf, key)

        def of_layer(layer, leaf):
            part = jax.lax.dynamic_index_in_dim(leaf, layer, 0, keepdims=False)
            part = whole(part, jax.random.fold_in(key, layer))
            return jax.lax.dynamic_update_index_in_dim(leaf, part, layer, 0)

        return jax.lax.fori_loop(0, leaf.shape[0], of_layer, leaf)

    return jax.jit(of_leaf, donate_argnums=0, out_shardings=place)
