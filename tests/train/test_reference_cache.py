# SPDX-License-Identifier: Apache-2.0
"""The cached reference: equal to the live one in any packing, and never stale."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from plain_settings import plain_compute

from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import Document
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.train import checksums, reference_cache

CONFIG = ModelConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
)
CONTEXT, WIDTH = 16, CONFIG.hidden_size
COMPUTE = plain_compute()


def make_packer(seed=0, context=CONTEXT):
    rng = np.random.default_rng(seed)
    documents = [
        Document(rng.integers(0, 32, n).astype(np.int32), np.ones(n, bool), "f:1")
        for n in rng.integers(2, CONTEXT, 25)
    ]
    return Packer(documents, context, "tokens")


@pytest.fixture(scope="module")
def params():
    return decoder.init_params(CONFIG, seed=0)


def hidden_fn(params, compute=COMPUTE):
    @jax.jit
    def hidden(tokens_BT, segment_ids_BT, positions_BT):
        return decoder.forward(
            params, CONFIG, tokens_BT, segment_ids_BT, positions_BT, compute=compute
        )

    return lambda batch: hidden(
        batch.tokens_BT, batch.segment_ids_BT, batch.positions_BT
    )


def key_of(params, config, packer, compute=COMPUTE) -> str:
    return reference_cache.fingerprint(
        checksums.of_model(params, config), packer, compute
    )


@pytest.fixture
def cached(tmp_path, params):
    packer = make_packer()
    key = key_of(params, CONFIG, packer)
    where = str(tmp_path / "cache")
    cache = reference_cache.create_cache(
        where, key, packer, hidden_fn(params), WIDTH, "float32", batch_rows=4
    )
    return where, key, packer, cache


def test_cached_states_equal_live_ones_in_any_packing(cached, params):
    where, key, packer, cache = cached
    live = hidden_fn(params)
    for seed in (None, 1, 2):
        rows = packer.pack(seed)
        live_RTD = np.asarray(live(rows.text))
        for reader in (cache, reference_cache.open_cache(where, key)):
            states_RTD = reader.gather(rows.token_index_BT)
            assert states_RTD.dtype == np.float32
            real = rows.segment_ids_BT > 0
            np.testing.assert_allclose(
                states_RTD[real], live_RTD[real], rtol=0, atol=2e-6
            )
            assert not states_RTD[~real].any()


def test_the_file_is_mapped_and_cannot_be_changed(cached):
    *_, cache = cached
    assert isinstance(cache._states, np.memmap)
    assert not cache._states.flags.writeable
    first = cache.gather(np.asarray([[0, -1]]))
    first[:] = 7.0  # a copy
    assert not (cache.gather(np.asarray([[0, -1]])) == 7.0).any()


def test_bfloat16_is_stored_as_computed(tmp_path, params):
    packer = make_packer()
    compute = plain_compute(dtype="bfloat16")
    live = hidden_fn(params, compute)
    cache = reference_cache.create_cache(
        str(tmp_path), "key", packer, live, WIDTH, "bfloat16"
    )
    rows = packer.pack()
    states = cache.gather(rows.token_index_BT)
    assert states.dtype == ml_dtypes.bfloat16
    size = (tmp_path / reference_cache.STATES).stat().st_size
    assert size == packer.num_tokens * WIDTH * 2
    batch = rows.text
    real = rows.segment_ids_BT > 0
    np.testing.assert_allclose(
        states[real].astype(np.float32),
        np.asarray(live(batch)).astype(np.float32)[real],
        atol=0.05,
    )


def test_the_key_knows_weights_text_and_dtype(params):
    packer = make_packer()
    key = key_of(params, CONFIG, packer)
    assert key == key_of(params, CONFIG, make_packer())
    assert key == key_of(
        *(jax.tree.map(np.asarray, params), CONFIG, packer),
        dataclasses.replace(COMPUTE, unroll=2),
    )
    leaves, tree = jax.tree.flatten(params)
    for i, leaf in enumerate(leaves):
        other = jnp.asarray(leaf).ravel().at[-1].add(1e-3).reshape(leaf.shape)
        changed = jax.tree.unflatten(tree, [*leaves[:i], other, *leaves[i + 1 :]])
        assert key_of(changed, CONFIG, packer) != key
    bfloat16 = plain_compute(dtype="bfloat16")
    assert key_of(params, CONFIG, packer, bfloat16) != key
    assert key_of(params, CONFIG, make_packer(1)) != key
    other = dataclasses.replace(CONFIG, rope_theta=CONFIG.rope_theta + 1)
    assert key_of(params, other, packer) != key
    # The same tokens with other borders between documents are other text.
    tokens = np.concatenate([d.tokens for d in packer.documents])[:12]
    borders = [
        Packer(
            [Document(t, np.ones(len(t), bool), "f") for t in np.split(tokens, at)],
            CONTEXT,
            "tokens",
        )
        for at in ([4], [6])
    ]
    a, b = (key_of(params, CONFIG, packer) for packer in borders)
    assert a != b


def test_a_stale_cache_is_refused(cached, capsys):
    where, *_ = cached
    with pytest.raises(reference_cache.UnusableCache, match="is stale: .*made for"):
        reference_cache.open_cache(where, "another key")
    assert reference_cache.open_on_all(where, "another key") is None
    assert capsys.readouterr().out.endswith("are another key. It is computed again.\n")


def test_an_absent_or_interrupted_cache_is_none(cached, tmp_path):
    where, key, packer, _ = cached
    with pytest.raises(FileNotFoundError, match="no reference cache"):
        reference_cache.open_cache(str(tmp_path / "none"), key)

    def interrupt(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # while replacing a whole one
        reference_cache.create_cache(where, key, packer, interrupt, WIDTH, "float32")
    with pytest.raises(FileNotFoundError, match="no reference cache"):
        reference_cache.open_cache(where, key)


def changed(file, change):
    """Changes the bytes of a file."""
    data = bytearray(file.read_bytes())
    file.write_bytes(change(data) or data)


def flip(data, place=0.5, bit=1):
    data[int(place * (len(data) - 1))] ^= bit


DAMAGES = [
    (
        reference_cache.STATES,
        lambda d: flip(d, 0.0),
        "does not agree with its checksum",
    ),
    (
        reference_cache.STATES,
        lambda d: flip(d, 1.0),
        "does not agree with its checksum",
    ),
    (reference_cache.STATES, lambda d: d[:-1], "bytes of states, its card says"),
    (reference_cache.STATES, lambda d: d + b"0", "bytes of states, its card says"),
    (reference_cache.CARD, lambda d: d[: len(d) // 2], "has a damaged card.json"),
    (reference_cache.CARD, lambda d: b"\xff", "has a damaged card.json"),
    (reference_cache.CARD, lambda d: b"[]", "has a damaged card.json"),
    (reference_cache.CARD, lambda d: flip(d, 0.1), "has a damaged card.json"),
    (reference_cache.CARD, lambda d: flip(d, 0.6), "has a damaged card.json"),
]


@pytest.mark.parametrize(("name", "change", "words"), DAMAGES)
def test_a_damaged_cache_is_said_and_computed_again(
    cached, tmp_path, name, change, words, capsys
):
    where, key, *_ = cached
    changed(tmp_path / "cache" / name, change)
    with pytest.raises(reference_cache.UnusableCache, match=words):
        reference_cache.open_cache(where, key)
    assert reference_cache.open_on_all(where, key) is None
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("It is computed again.")


def test_a_cache_without_its_states_is_damaged(cached, tmp_path):
    where, key, *_ = cached
    (tmp_path / "cache" / reference_cache.STATES).unlink()
    with pytest.raises(reference_cache.UnusableCache, match="has 0 bytes of states"):
        reference_cache.open_cache(where, key)


def test_pieces_of_a_file_have_one_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "PIECE", 4)
    file = epath.Path(tmp_path / "f")
    found = set()
    for text in (b"", b"abcd", b"abcdefgh", b"efghabcd", b"abcdefg", b"abcdefgx"):
        file.write_bytes(text)
        found.add(checksums.of_file(file))
    assert len(found) == 6


def test_what_cannot_be_cached():
    with pytest.raises(ValueError, match="local directory"):
        reference_cache.open_cache("gs://bucket/cache", "key")


def test_a_process_that_lacks_its_cache_is_not_alone_in_making_it(
    cached, tmp_path, monkeypatch
):
    where, key, *_ = cached
    assert reference_cache.open_on_all(where, key) is not None
    assert reference_cache.open_on_all(str(tmp_path / "none"), key) is None
    # Another process says that it has none.
    monkeypatch.setattr(reference_cache.distributed, "all_agree", lambda value: False)
    assert reference_cache.open_on_all(where, key) is None
