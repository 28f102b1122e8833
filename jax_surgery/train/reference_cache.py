# SPDX-License-Identifier: Apache-2.0
"""What losses read of the frozen model, on disk: hidden states or log p of each token
of a corpus.

With final hidden states the KL needs no second forward pass and no second model in
memory, and is exact: the frozen output head is applied inside the chunked KL. The
states of a document do not depend on its row, so they are keyed by the token's index
in the corpus and gathered for any packing.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.parallel import distributed

STATES, CARD = "hidden_states.bin", "card.json"


def fingerprint(params: Any, packer: Packer, compute: Any) -> str:
    """Hash of the model's weights, the corpus' tokens and how they are computed.

    Args:
      params: of the frozen model.
      packer: the corpus.
      compute: `model.decoder.Compute`; its dtype counts.
    """
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        name, sums = jax.tree_util.keystr(path), _sums(leaf)
        text = f"{name} {leaf.dtype} {leaf.shape} {[int(s) for s in sums]};"
        digest.update(text.encode())
    for document in packer.documents:
        digest.update(len(document.tokens).to_bytes(4, "little"))
        digest.update(document.tokens.astype("<i4").tobytes())
    digest.update(repr((compute.dtype, packer.context)).encode())
    return digest.hexdigest()


@jax.jit
def _sums(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two sums of an array's bits, each number times odd ones of its place.

    Computed where the array lies, since the weights of a large model fit no host; sums
    of integers do not depend on the order, hence on no mesh.
    """
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    bits = bits.astype(jnp.uint32)
    sums = []
    for seed in (0x9E3779B9, 0x85EBCA6B):
        place = jnp.full(leaf.shape, seed, jnp.uint32)
        for axis, size in enumerate(leaf.shape):
            shape = [size if axis == a else 1 for a in range(leaf.ndim)]
            index = jnp.arange(size, dtype=jnp.uint32).reshape(shape)
            place = (place ^ index) * jnp.uint32(0xC2B2AE35)
            place ^= place >> 15
        mixed = (bits ^ (bits >> 16)) * (2 * place + 1)
        sums.append(mixed.sum(dtype=jnp.uint32))
    first, second = sums
    return first, second


class ReferenceCache:
    """Memory-mapped hidden states [tokens, D] of a corpus, or log p [tokens, 1]."""

    def __init__(self, states: np.ndarray):
        self._states = states

    def gather(self, token_index_BT: np.ndarray) -> np.ndarray:
        """Of the tokens of packed rows as stored, 0 on padding: [B, T, D], or [B, T]
        where there is one number of each token."""
        states_BTD = np.asarray(self._states[np.maximum(token_index_BT, 0)])
        states_BTD[token_index_BT < 0] = 0
        return states_BTD[..., 0] if self._states.shape[1] == 1 else states_BTD


def _folder(directory: str) -> epath.Path:
    if "://" in str(directory):
        raise ValueError(
            f"the reference cache cannot be memory-mapped from {directory}; give a "
            "local directory, or use config.reference='live'."
        )
    return epath.Path(directory)


def open_cache(directory: str, key: str) -> ReferenceCache:
    """Opens a cache made for `key`.

    Raises:
      FileNotFoundError: there is none (or one whose making was interrupted).
      ValueError: it was made for another model, text or dtype (stale), or its file
        was cut short.
    """
    folder = _folder(directory)
    if not (folder / CARD).exists():
        raise FileNotFoundError(f"no reference cache in {directory}.")
    card = json.loads((folder / CARD).read_text())
    if card["key"] != key:
        raise ValueError(
            f"the reference cache in {directory} is stale: it was made for "
            f"{card['key'][:12]}, this model, retain text and dtype are {key[:12]}. "
            "Delete the folder, or take another workdir, to compute it again."
        )
    shape, dtype = tuple(card["shape"]), jnp.dtype(card["dtype"])
    size = (folder / STATES).stat().length if (folder / STATES).exists() else 0
    wanted = int(np.prod(shape)) * dtype.itemsize
    if size != wanted:
        raise ValueError(
            f"the reference cache in {directory} has {size} bytes of states, its card "
            f"says {wanted}; delete the folder to compute it again."
        )
    states = np.memmap(folder / STATES, mode="r", dtype=dtype, shape=shape)
    return ReferenceCache(states)


def open_on_all(directory: str, key: str) -> ReferenceCache | None:
    """The result of `open_cache` if every process has a cache, else None on all of them.

    To make one all processes compute together, so one that lacks its own (a host that
    was replaced) must not be alone in that.

    Raises:
      ValueError: see `open_cache`.
    """
    try:
        cache = open_cache(directory, key)
    except FileNotFoundError:
        cache = None
    return cache if distributed.all_agree(cache is not None) else None


def create_cache(
    directory: str,
    key: str,
    packer: Packer,
    hidden_fn: Callable[[Batch], Any],
    width: int,
    dtype: str,
    batch_rows: int = 8,
) -> ReferenceCache:
    """Computes the states of every token of the corpus and writes them.

    The card is written last, so that an interrupted cache is never opened.

    Args:
      directory: where; made if absent. A cache that is there is replaced.
      key: see `fingerprint`.
      packer: the corpus.
      hidden_fn: batch -> hidden states [B, T, D]; or one number of each token, [B, T],
        such as its log p.
      width: D, or 1.
      dtype: that they are computed in, so that nothing is lost.
      batch_rows: rows of a forward pass.

    Raises:
      ValueError: a directory that is not local.
    """
    folder = _folder(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    shape = (packer.num_tokens, width)
    states = np.memmap(folder / STATES, mode="w+", dtype=jnp.dtype(dtype), shape=shape)
    for batch in one_pass(packer.pack(), batch_rows):
        index_BT = batch.token_index_BT
        hidden_BTD = np.asarray(hidden_fn(batch.for_devices()))
        hidden_BTD = hidden_BTD.reshape(*index_BT.shape, width)
        states[index_BT[index_BT >= 0]] = hidden_BTD[index_BT >= 0]
    states.flush()
    card = {"key": key, "shape": shape, "dtype": dtype}
    (folder / CARD).write_text(json.dumps(card))
    return open_cache(directory, key)
