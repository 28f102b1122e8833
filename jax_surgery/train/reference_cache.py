# SPDX-License-Identifier: Apache-2.0
"""What losses read of the frozen model, on disk: hidden states or log p of each token
of a corpus.

With final hidden states the KL needs no second forward pass and no second model in
memory, and is exact: the frozen output head is applied inside the chunked KL. The
states of a document do not depend on its row, so they are keyed by the token's index
in the corpus and gathered for any packing.
"""

import json
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.parallel import distributed
from jax_surgery.storage import files, space
from jax_surgery.train import checksums

STATES, CARD = "hidden_states.bin", "card.json"


def fingerprint(model_hash: str, packer: Packer, compute: Any) -> str:
    """Hash of the model, the corpus' tokens and how they are computed.

    Args:
      model_hash: `checksums.of_model` of the frozen model, which reads all weights: of
        several corpora it is computed once.
      packer: the corpus.
      compute: `model.decoder.Compute`; its dtype counts.
    """
    of = [model_hash, packer.digest, compute.dtype, packer.context]
    if shared := len(packer.beginning):  # whose tokens are not among those cached
        of.append(shared)
    return checksums.of_value(of)


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


class UnusableCache(ValueError):
    """A cache that is stale or damaged, and is to be computed again."""


def _read_card(directory: str) -> dict[str, Any]:
    """The card of a cache; its checksum is right.

    Raises:
      FileNotFoundError: there is none (or one whose making was interrupted).
      UnusableCache: it is damaged.
    """
    file = _folder(directory) / CARD
    if not file.exists():
        raise FileNotFoundError(f"no reference cache in {directory}.")
    try:
        card = json.loads(file.read_bytes())
        if card.pop("checksum") == checksums.of_value(card):
            return card
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UnusableCache(f"the reference cache in {directory} has a damaged {CARD}.")


def open_cache(directory: str, key: str) -> ReferenceCache:
    """Opens a cache made for `key`, and reads all of it once to check it.

    Raises:
      FileNotFoundError: there is none (or one whose making was interrupted).
      UnusableCache: it was made for another model, text or dtype (stale), or it is
        damaged.
    """
    card = _read_card(directory)
    if card["key"] != key:
        raise UnusableCache(
            f"the reference cache in {directory} is stale: it was made for "
            f"{card['key'][:12]}, this model, retain text and dtype are {key[:12]}."
        )
    cache = _mapped(directory, card)
    if checksums.of_file(_folder(directory) / STATES) != card["states"]:
        raise UnusableCache(
            f"the reference cache in {directory} is damaged: {STATES} does not agree "
            "with its checksum."
        )
    return cache


def _mapped(directory: str, card: dict[str, Any]) -> ReferenceCache:
    file = _folder(directory) / STATES
    shape, dtype = tuple(card["shape"]), jnp.dtype(card["dtype"])
    size = file.stat().length if file.exists() else 0
    wanted = int(np.prod(shape)) * dtype.itemsize
    if size != wanted:
        raise UnusableCache(
            f"the reference cache in {directory} has {size} bytes of states, its card "
            f"says {wanted}."
        )
    return ReferenceCache(np.memmap(file, mode="r", dtype=dtype, shape=shape))


def open_on_all(directory: str, key: str) -> ReferenceCache | None:
    """The result of `open_cache` if every process has a cache, else None on all of them.

    To make one all processes compute together, so one that lacks its own (a host that
    was replaced) must not be alone in that. One that cannot be used is said in a line.
    """
    cache = None
    try:
        cache = open_cache(directory, key)
    except FileNotFoundError:
        pass
    except UnusableCache as error:
        print(f"{error} It is computed again.")
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
      hidden_fn: batch on the host -> hidden states [B, T, D]; or one number of each
        token, [B, T], such as its log p.
      width: D, or 1.
      dtype: that they are computed in, so that nothing is lost.
      batch_rows: rows of a forward pass.

    Raises:
      ValueError: a directory that is not local.
      DiskFull: there is no room for it.
    """
    folder = _folder(directory)
    folder.mkdir(parents=True, exist_ok=True)
    files.remove(folder / CARD)
    shape = (packer.num_tokens, width)
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    space.reserve(folder / STATES, size, "the reference cache")
    states = np.memmap(folder / STATES, mode="r+", dtype=jnp.dtype(dtype), shape=shape)
    for batch in one_pass(packer.pack(), batch_rows, "the reference's states"):
        index_BT = batch.token_index_BT
        hidden_BTD = np.asarray(hidden_fn(batch))
        hidden_BTD = hidden_BTD.reshape(*index_BT.shape, width)
        states[index_BT[index_BT >= 0]] = hidden_BTD[index_BT >= 0]
    states.flush()
    card = {"key": key, "shape": list(shape), "dtype": dtype}
    card["states"] = checksums.of_file(folder / STATES)
    card["checksum"] = checksums.of_value(card)
    files.write_text(folder / CARD, json.dumps(card))
    return _mapped(directory, card)
