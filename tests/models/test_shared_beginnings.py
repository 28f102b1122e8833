# SPDX-License-Identifier: Apache-2.0
"""A beginning that a row's documents share changes no value and no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_loss

from jax_surgery.data.packing import Packer, common_beginning
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream, one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.models import attention_kernels, decoder
from jax_surgery.models.config import ModelConfig

CONFIG = ModelConfig(37, 16, 24, 2, 4, 2, 4, initializer_range=0.3)
CONTEXT = 48
BEGINNING = np.asarray([5, 9, 2, 7, 7, 1], np.int32)


def documents(count=12, plain=2):
    """Chats that begin alike, and plain texts that do not."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        rest = rng.integers(0, 37, rng.integers(4, 12)).astype(np.int32)
        chat = number >= plain
        tokens = np.concatenate([BEGINNING, rest]) if chat else rest
        learned = np.arange(len(tokens)) >= (len(BEGINNING) + 2 if chat else 0)
        found.append(Document(tokens, learned, str(number)))
    return found


def by_token(packer, params):
    """{(document, place): (log p of the token, its weight)} of learned tokens."""
    batch = packer.pack(seed=3)
    hidden_BTD = decoder.forward_packed(params, CONFIG, batch.for_devices())
    head = params["embedder"]["embedding"].T
    logp_BTV = jax.nn.log_softmax(hidden_BTD @ head)
    found = {}
    for row, place in zip(*np.nonzero(batch.weights_BT), strict=True):
        index = batch.token_index_BT[row, place]
        document = int(np.searchsorted(packer.starts, index, "right") - 1)
        token = batch.tokens_BT[row, place]
        key = document, int(batch.positions_BT[row, place])
        found[key] = float(logp_BTV[row, place - 1, token])
    return found


@pytest.fixture(scope="module")
def params():
    return decoder.init_params(CONFIG, 0)


def test_what_most_documents_begin_with_is_found_up_to_what_is_learned():
    np.testing.assert_array_equal(common_beginning(documents(), CONTEXT), BEGINNING)
    # Of a few documents nothing is saved, and rows need room for the others.
    assert not len(common_beginning(documents(2, plain=0), CONTEXT))
    long = Document(np.arange(37, dtype=np.int32), np.ones(37, bool), "long")
    assert len(common_beginning([*documents(), long], CONTEXT))
    assert not len(common_beginning([*documents(), long], 40))


@pytest.mark.parametrize("average", ["tokens", "sequences"])
def test_every_learned_token_has_the_same_log_probability(params, average):
    apart = Packer(documents(), CONTEXT, average)
    shared = Packer(documents(), CONTEXT, average, beginning=BEGINNING)
    assert len(shared.pack()) < len(apart.pack())
    whole = np.concatenate([d.tokens for d in documents()])
    index_BT, tokens_BT = (shared.pack().token_index_BT, shared.pack().tokens_BT)
    real_BT = index_BT >= 0
    places = shared.places[index_BT[real_BT]]
    np.testing.assert_array_equal(whole[places], tokens_BT[real_BT])
    one, other = by_token(apart, params), by_token(shared, params)
    assert one.keys() == other.keys()
    assert other == pytest.approx(one, rel=1e-4, abs=1e-5)


def test_the_loss_and_its_gradient_are_the_same(params):
    reference = decoder.init_params(CONFIG, 1)
    loss = plain_loss(retained_positions="learned")

    def of(beginning):
        packers = {
            role: Packer(documents(plain=i), CONTEXT, "tokens", beginning=beginning)
            for i, role in enumerate(("unlearn", "update", "retain"))
        }
        most = max(len(packer.pack()) for packer in packers.values())
        rows = RoleRows(most, most, most)
        parts = []
        for packer in packers.values():
            [batch] = one_pass(packer.pack(seed=1), most)
            parts.append(batch)
        batch = jax.tree.map(lambda *each: np.concatenate(each), *parts).place(3 * most)
        prepared = loss.prepare(batch, reference, CONFIG, rows, average="tokens")
        return jax.value_and_grad(loss.make(CONFIG, rows), has_aux=True)(
            params, prepared
        )

    (one, ones), (other, others) = of(None), of(BEGINNING)
    assert float(other[0]) == pytest.approx(float(one[0]), rel=1e-4)
    for x, y in zip(jax.tree.leaves(others), jax.tree.leaves(ones), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5)


def test_batches_of_a_stream_hold_the_beginning_in_every_row_of_text():
    packer = Packer(documents(), CONTEXT, "tokens", beginning=BEGINNING)
    roles = {"unlearn": packer, "retain": packer}
    stream = BatchStream(roles, {"unlearn": 2, "retain": 1}, 0)
    batch = next(stream)
    size = len(BEGINNING)
    np.testing.assert_array_equal(batch.tokens_BT[:, :size], [BEGINNING] * 3)
    assert batch.begins_BT[:, :size].all() and not batch.weights_BT[:, :size].any()
    # A text of its own does not see it.
    plain = np.isin(batch.token_index_BT, np.arange(packer.starts[2]))
    assert plain.any() and not batch.begins_BT[plain].any()


def test_kernels_that_cannot_share_say_so():
    segments = jnp.ones((1, 128), jnp.int32)
    begins = jnp.ones((1, 128), bool)
    for kind, window in (("splash", 0), ("cudnn", 0), ("xla", 8)):
        with pytest.raises(ValueError, match="share their beginning need"):
            attention_kernels.self_attention(
                kind, segments, "bfloat16", window, begins_BT=begins
            )
    fits = attention_kernels.shares_beginnings
    assert fits("auto", CONFIG, "float32", CONTEXT)
    assert not fits("splash", CONFIG, "bfloat16", CONTEXT)
