# SPDX-License-Identifier: Apache-2.0
"""Weighted sources: rows of their own in a batch, and the term that they make."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_loss
from quick_cases import few_of
from settings_cases import plain_surgery

from jax_surgery.data import streams
from jax_surgery.data.packing import Packer
from jax_surgery.data.records import read_streams
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream
from jax_surgery.data.tokens import Document
from jax_surgery.methods.rmu import RMU
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig

CONTEXT = 12
CONFIG = ModelConfig(61, 16, 24, 2, 2, 1, 8)
ROWS = {"unlearn": 4, "update": 2, "retain": 2}


def packer(average, lengths, stream=0, first=1):
    """Documents of a length each; the tokens of different streams differ."""
    found = []
    for number, length in enumerate(lengths):
        tokens = (first + 7 * number + np.arange(length)) % 20 + 20 * stream
        learned = np.ones(length, bool)
        found.append(Document(tokens.astype(np.int32), learned, f"{stream}", stream))
    return found, functools.partial(Packer, context=CONTEXT, average=average)


def packers(average):
    one, make = packer(average, [3, 5, 4, 12, 7])
    two, _ = packer(average, [9, 2], stream=1)
    rest, _ = packer(average, [4, 6, 10, 3])
    return {"unlearn": make([*one, *two]), "update": make(rest), "retain": make(rest)}


@pytest.mark.parametrize(
    "source, found",
    [
        ("a.jsonl", (None, "a.jsonl")),
        ("0.1*a.jsonl", (0.1, "a.jsonl")),
        (" -2 * paper:obsolete".strip(), (-2.0, "paper:obsolete")),
        ("1e-2*hf:a@b:train[:10%]", (0.01, "hf:a@b:train[:10%]")),
        ("odd*name.jsonl", (None, "odd*name.jsonl")),
    ],
)
def test_a_source_is_split_into_weight_and_name(source, found):
    assert streams.split(source) == found


def test_weights_of_a_role():
    assert streams.weights_of("a.jsonl,b.jsonl") == streams.weights_of("") == ()
    assert streams.weights_of("a.jsonl, 0.5*b.jsonl") == (1.0, 0.5)
    assert streams.bare("a.jsonl, 0.5*b.jsonl") == "a.jsonl,b.jsonl"


def test_records_know_their_stream(tmp_path):
    files = []
    for name, count in (("a", 2), ("b", 3)):
        rows = [json.dumps({"text": f"{name} {i}"}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        files.append(str(tmp_path / f"{name}.jsonl"))
    read = read_streams(f"0.5*{files[0]},{files[1]}", "unlearn")
    assert [record.stream for record in read] == [0, 0, 1, 1, 1]
    assert {r.stream for r in read_streams(",".join(files), "unlearn")} == {0}


def batches(average, weights, count=6):
    stream = BatchStream(packers(average), ROWS, 3, weights={"unlearn": weights})
    return stream, [next(stream) for _ in range(count)]


def test_each_stream_has_its_rows_and_reads_all_of_its_texts():
    stream, found = batches("tokens", (1.0, 0.5))
    for batch in found:
        ours = batch.tokens_BT[:4] // 20
        real = batch.segment_ids_BT[:4] > 0
        for row, number in enumerate((0, 0, 1, 1)):
            assert (ours[row][real[row]] == number).all() and real[row].any()
    seen = {int(t) for b in found for t in b.tokens_BT[:4][b.segment_ids_BT[:4] > 0]}
    wanted = {int(t) for d in packers("tokens")["unlearn"].documents for t in d.tokens}
    assert seen == wanted
    assert stream.epochs["unlearn"] > 1


def test_weighted_streams_go_on_bit_for_bit():
    stream, _ = batches("tokens", (1.0, 0.5), 2)
    state = json.loads(json.dumps(stream.get_state()))
    wanted = [next(stream) for _ in range(4)]
    again, _ = batches("tokens", (1.0, 0.5), 0)
    again.set_state(state)
    for one, other in zip(wanted, (next(again) for _ in range(4)), strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(
                getattr(one, field.name), getattr(other, field.name)
            )
    with pytest.raises(ValueError, match="read the roles unlearn 1, unlearn 2"):
        BatchStream(packers("tokens"), ROWS, 3).set_state(state)


def mean_ce(params, batch, rows):
    """CE of some rows: the mean that `weights_BT` says, nats."""
    part = jax.tree.map(lambda a: a[rows], batch.text)
    hidden = decoder.forward_packed(params, CONFIG, part)
    logp = jax.nn.log_softmax(hidden @ params["head"]["kernel"])[:, :-1]
    own = jnp.take_along_axis(logp, part.tokens_BT[:, 1:, None], -1)[..., 0]
    weights = batch.weights_BT[rows][:, 1:]
    return -(own * weights).sum() / weights.sum()


@pytest.mark.parametrize("average", few_of(["tokens", "sequences"], ["tokens"]))
def test_the_loss_is_the_weighted_sum_of_each_streams_mean(average):
    """L = -0.1 CE(one) + 0.3 CE(two) + 2 CE(update): a sign of its own for each."""
    params = jax.tree.map(lambda x: 3 * x, decoder.init_params(CONFIG, 0))
    _, [batch] = batches(average, (0.1, -0.3), 1)
    batch = jax.tree.map(jnp.asarray, batch.for_devices())
    loss = plain_loss(1.0, 2.0, 0.0)
    rows = RoleRows(**ROWS)

    @jax.jit
    def both(params, batch):
        whole = loss.prepare(batch, params, CONFIG, rows, average=average)
        return jax.value_and_grad(loss.make(CONFIG, rows), has_aux=True)(params, whole)

    def wanted(params):
        of = lambda first, stop: mean_ce(params, batch, slice(first, stop))
        return -0.1 * of(0, 2) + 0.3 * of(2, 4) + 2.0 * of(4, 6)

    (value, metrics), grads = both(params, batch)
    value_wanted, grads_wanted = jax.jit(jax.value_and_grad(wanted))(params)
    np.testing.assert_allclose(value, value_wanted, rtol=1e-5)
    for one, other in zip(
        jax.tree.leaves(grads), jax.tree.leaves(grads_wanted), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-6)
    # Metrics are of the text, without the weights.
    np.testing.assert_allclose(
        metrics["unlearn_ce"], mean_ce(params, batch, slice(0, 4)), rtol=1e-5
    )


@pytest.mark.slow
def test_micro_batches_give_the_same_loss():
    params = decoder.init_params(CONFIG, 0)
    _, [batch] = batches("tokens", (0.1, 3.0), 1)
    batch = jax.tree.map(jnp.asarray, batch.for_devices())
    loss, rows = plain_loss(1.0, 1.0, 0.0), RoleRows(**ROWS)

    @jax.jit
    def both(params, batch):
        whole = loss.prepare(batch, params, CONFIG, rows, average="tokens")
        parts, half = whole.micro_batches(rows, 2), loss.make(CONFIG, rows.split(2))
        part = lambda i: jax.tree.map(lambda a: a[i], parts).replace(**whole.shared)
        values = [half(params, part(i))[0] for i in (0, 1)]
        return loss.make(CONFIG, rows)(params, whole)[0], sum(values)

    np.testing.assert_allclose(*both(params, batch), rtol=1e-5)


@pytest.mark.slow
def test_methods_of_hidden_states_weigh_streams_too():
    params = decoder.init_params(CONFIG, 0)
    loss = dataclasses.replace(plain_loss(1.0, 0.0, 0.0), method=RMU(layer=1))
    rows = RoleRows(**ROWS)

    def value(weights):
        _, [batch] = batches("tokens", weights, 1)
        batch = jax.tree.map(jnp.asarray, batch.for_devices())
        whole = loss.prepare(batch, params, CONFIG, rows, average="tokens")
        return float(loss.make(CONFIG, rows)(params, whole)[0])

    one, two, both = (value(w) for w in ((1.0, 0.0), (0.0, 1.0), (0.3, -2.0)))
    assert one != two
    np.testing.assert_allclose(both, 0.3 * one - 2.0 * two, rtol=1e-4)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"data.retain": "2*a.jsonl"}, "one weight, config.objective.gamma"),
        (
            {"data.rows_unlearn": 3},
            "config.data.rows_unlearn=3 must be a multiple of the 2",
        ),
        (
            {"method": "npo"},
            "weighted sources, and 'npo' .* has no term of single tokens",
        ),
        ({"method": "subspace@unlearn"}, "weighted sources, and 'subspace' of"),
    ],
)
def test_where_weights_would_be_left_out_the_config_is_refused(fields, words):
    given = {"data.unlearn": "2*a.jsonl,b.jsonl", "data.rows_unlearn": 2}
    with pytest.raises(ValueError, match=words):
        plain_surgery(**given | fields)


def test_a_stream_of_which_nothing_is_learned_is_refused():
    with pytest.raises(ValueError, match="weighted source 3 of its role holds no text"):
        batches("tokens", (1.0, 1.0, 1.0), 1)
