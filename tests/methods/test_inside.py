# SPDX-License-Identifier: Apache-2.0
"""Unlearning inside the model: what each part of it computes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_settings import plain_loop, plain_objective
from settings_cases import settings_of

from jax_surgery.attacks.blocks import silenced as without
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream
from jax_surgery.data.tokens import Document
from jax_surgery.methods.ascent import Surgery
from jax_surgery.methods.inside import relearned, silenced
from jax_surgery.methods.inside.settings import NOTHING
from jax_surgery.methods.inside.steps import InsideSteps, WithCopy
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.npo import NPO
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.plan import programs
from jax_surgery.train import finetune
from jax_surgery.train import step as steps
from jax_surgery.train.loop import train

CONFIG = ModelConfig(37, 16, 24, 3, 4, 2, 4, initializer_range=0.3)
ROWS = RoleRows(2, 2, 2)
CONTEXT = 24
LENS = dataclasses.replace(NOTHING, lens=0.5)
METHOD = Surgery(margin=-4.0)
COMPUTE = decoder.DEFAULT_COMPUTE


def documents(seed, count=6):
    rng = np.random.default_rng(seed)
    return [
        Document(rng.integers(0, 37, n).astype(np.int32), np.arange(n) > 1, str(i))
        for i, n in enumerate(rng.integers(5, 11, count))
    ]


PACKERS = {
    role: Packer(documents(i), CONTEXT, "tokens")
    for i, role in enumerate(("unlearn", "update", "retain"))
}


@pytest.fixture(scope="module")
def params():
    return decoder.init_params(CONFIG, 0)


@pytest.fixture(scope="module")
def batch(params):
    stream = BatchStream(PACKERS, dict.fromkeys(PACKERS, 2), 0)
    whole = jax.tree.map(jnp.asarray, next(stream).for_devices())
    reference = decoder.init_params(CONFIG, 1)
    return loss_of(NOTHING).prepare(whole, reference, CONFIG, ROWS, COMPUTE, "tokens")


def loss_of(inside, method=METHOD):
    return Loss(plain_objective(), method, inside)


def value_of(inside, params, batch, **how):
    return loss_of(inside).make(CONFIG, ROWS, **how)(params, batch)[1]


def test_states_inside_are_those_of_a_model_that_ends_there(params, batch):
    hidden, inside = decoder.forward_with_inside(params, CONFIG, batch)
    np.testing.assert_array_equal(hidden, decoder.forward_packed(params, CONFIG, batch))
    assert len(inside) == 2 * CONFIG.num_layers - 1
    for place, state in enumerate(inside):
        layer, ended = divmod(place, 2)
        cut = without(params, jnp.arange(3) > layer, part="layer")
        if not ended:  # after the attention alone
            cut = without(cut, jnp.arange(3) == layer, part="mlp")
        wanted = decoder.forward_packed(cut, CONFIG, batch)
        np.testing.assert_allclose(state, wanted, rtol=1e-5, atol=1e-5)


def test_gates_leave_out_parts_of_single_rows(params, batch):
    gates = np.ones((6, 3, 2), np.float32)
    gates[1, 2, 1] = gates[3, 0, 0] = 0
    got = decoder.forward_packed(params, CONFIG, batch.replace(gates_BLP=gates))
    plain = decoder.forward_packed(params, CONFIG, batch)
    for row, part, layer in ((1, "mlp", 2), (3, "attention", 0)):
        cut = without(params, jnp.arange(3) == layer, part=part)
        wanted = decoder.forward_packed(cut, CONFIG, batch)[row]
        np.testing.assert_allclose(got[row], wanted, rtol=1e-5, atol=1e-5)
        assert np.abs(got[row] - plain[row]).max() > 1e-3
    others = [0, 2, 4, 5]
    np.testing.assert_array_equal(got[jnp.asarray(others)], plain[jnp.asarray(others)])


@pytest.mark.parametrize("first", [0, 1])
def test_the_lens_adds_the_mean_of_the_terms_inside(params, batch, first):
    plain = value_of(NOTHING, params, batch)
    how = {"trainable": Trainable(first)}
    found = value_of(LENS, params, batch, **how)
    for name in ("unlearn_loss", "update_ce", "retain_kl", "unlearn_margin"):
        assert found[name] == pytest.approx(float(plain[name]), rel=1e-5)
    terms = []
    for place in range(2 * first, 2 * CONFIG.num_layers - 1):
        layer, ended = divmod(place, 2)
        cut = without(params, jnp.arange(3) > layer, part="layer")
        if not ended:
            cut = without(cut, jnp.arange(3) == layer, part="mlp")
        terms.append(float(value_of(NOTHING, cut, batch)["unlearn_loss"]))
    more = plain_objective().alpha * LENS.lens * np.mean(terms)
    assert float(found["loss"] - plain["loss"]) == pytest.approx(more, rel=1e-4)


def test_a_copy_reads_the_unlearn_rows_alone(params, batch):
    other = decoder.init_params(CONFIG, 2)
    shift = jax.tree.map(jnp.subtract, other["layers"], params["layers"])
    inside = dataclasses.replace(NOTHING, copies=3)
    plain = value_of(NOTHING, params, batch)
    there = params | {"layers": other["layers"]}
    for factor in (0.0, 1.0):
        fields = {"shift": shift, "shift_factor": np.float32(factor)}
        found = value_of(inside, params, batch.replace(**fields))
        wanted = value_of(NOTHING, there if factor else params, batch)
        assert float(found["unlearn_loss"]) == pytest.approx(
            float(wanted["unlearn_loss"]), rel=1e-4
        )
        for name in ("update_ce", "retain_kl"):
            assert float(found[name]) == pytest.approx(float(plain[name]), rel=1e-4)


def test_a_copy_relearns_half_of_the_texts_and_no_embedding(params):
    texts = documents(0, 12)
    inside = dataclasses.replace(NOTHING, copy_steps=6, copy_rate=1e-2)
    of = lambda step: relearned.change(
        params, texts, inside, 0, step, CONFIG, COMPUTE, CONTEXT
    )
    before = jax.tree.map(jnp.copy, params)
    shift = of(4)
    jax.tree.map(np.testing.assert_array_equal, before, params)
    jax.tree.map(np.testing.assert_array_equal, shift, of(4))
    chosen = relearned.plan(inside, len(texts), 0, 4)
    assert len(chosen.texts) == 6 and 2 <= chosen.steps <= 6
    layers = jax.tree.map(jnp.add, params["layers"], shift)
    batch, _ = finetune.text_batch([texts[i] for i in chosen.texts], CONTEXT, 4)
    ce = lambda p: float(finetune.cross_entropy(p, CONFIG, batch, COMPUTE))
    assert ce(params | {"layers": layers}) < ce(params) - 0.1
    # Other copies have other texts, rates and steps.
    plans = [relearned.plan(inside, len(texts), 0, step) for step in range(20)]
    assert {p.rate for p in plans} == {1e-2, 1e-2 * relearned.LOWER}
    assert len({p.steps for p in plans}) > 2
    assert len({tuple(sorted(p.texts)) for p in plans}) > 10
    made = sum(relearned.plan(inside, 12, 0, step).steps for step in (0, 3, 6))
    each = relearned.spent(
        dataclasses.replace(inside, copies=3), 12, 7, 0, CONFIG, CONTEXT
    )
    once = relearned.spent(
        dataclasses.replace(inside, copies=3, copy_steps=1), 12, 1, 0, CONFIG, CONTEXT
    )
    assert each == pytest.approx(once * made)
    assert relearned.spent(inside, 12, 7, 0, CONFIG, CONTEXT) == 0


def test_a_share_of_the_unlearn_rows_lacks_a_part():
    rows_B = np.asarray([True] * 40 + [False] * 5)
    rng = np.random.default_rng(0)
    found = np.concatenate([silenced.gates(rng, rows_B, 3, 0.5) for _ in range(20)])
    mine = np.tile(rows_B, 20)
    assert (found[~mine] == 1).all()
    lacking = (found[mine] == 0).any((1, 2))
    assert 0.4 < lacking.mean() < 0.6
    parts = {tuple(map(tuple, np.argwhere(row == 0))) for row in found[mine][lacking]}
    single = {((layer, part),) for layer in range(3) for part in range(2)}
    assert parts - {((i, 0), (i, 1)) for i in range(3)} == single - {((2, 0),)}
    assert (silenced.gates(rng, rows_B, 3, 0.0) == 1).all()


def test_a_run_that_is_resumed_is_bit_equal(params, tmp_path):
    inside = dataclasses.replace(
        NOTHING, lens=0.5, silenced=0.5, copies=3, copy_steps=2
    )
    loss = loss_of(inside)
    optimizer = optax.sgd(0.05)
    step = steps.make_train_step(CONFIG, loss, ROWS, optimizer)
    reference = decoder.init_params(CONFIG, 1)

    def run(folder, count):
        own = InsideSteps(ROWS, documents(0, 12), inside, 5, (CONFIG, COMPUTE, CONTEXT))
        stream = BatchStream(PACKERS, dict.fromkeys(PACKERS, 2), 0)
        state = steps.init_state(jax.tree.map(jnp.copy, params), optimizer)

        def one(state, batch, **fields):
            return step(state, batch.place(6).replace(**fields), reference)

        end = train(
            own.step(one),
            jax.device_put(own.begin(state), jax.devices()[0]),
            stream,
            steps=count,
            directory=str(tmp_path / folder),
            settings=plain_loop(checkpoint_every=0),
            callbacks=own.callbacks,
            title="test",
        )
        assert isinstance(end, WithCopy)
        return own.train_of(end).params

    whole = run("whole", 8)
    run("parts", 5)  # between two copies
    jax.tree.map(np.testing.assert_array_equal, run("parts", 8), whole)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (whole, params))))


def test_nothing_is_another_one_where_nothing_is_used(params):
    own = InsideSteps(ROWS, (), NOTHING, 0, (CONFIG, COMPUTE, CONTEXT))
    state = steps.init_state(params, optax.sgd(0.05))
    assert own.begin(state) is state and own.callbacks == []
    assert own.fields(state) == {}


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        (
            "surgery",
            {"lora.rank": 4, "optimizer.name": "adamw"},
            "copies=2: copies rel",
        ),
        ("automatic", {}, "config.inside.copies=2"),
        ("surgery", {"reference": "cached", "optimizer.matrices": "up"}, "is computed"),
    ],
)
def test_copies_are_refused_where_none_would_be_made(name, fields, said):
    fields |= {"inside.copies": 2, "model": "x", "optimizer.matrices": ""}
    if name == "automatic":
        fields |= {"optimizer.matrices": "up"}
    with pytest.raises(ValueError, match=said):
        settings_of(name, fields)


def test_the_plan_holds_what_a_copy_changed():
    fields = {"surgery.inside.copies": 8, "surgery.inside.silenced": 0.5}
    plan = settings_of("plan", fields)
    with jax.sharding.set_mesh(meshes.make_mesh(MeshShape(1, 1, 1))):
        held = programs._held(plan, CONFIG)
    shapes = jax.tree.map(lambda leaf: leaf.shape, held["copy"])
    params = jax.tree.map(lambda leaf: leaf.shape, held["parameters"]["layers"])
    assert shapes == params


def test_settings_that_cannot_be(batch):
    for fields, said in (
        ({"lens": -1.0}, "config.inside.lens=-1.0"),
        ({"silenced": 1.5}, "config.inside.silenced=1.5 is a share"),
        ({"copy_steps": 0}, "config.inside.copy_steps=0"),
        ({"copy_rate": 0.0}, "config.inside.copy_rate=0.0"),
    ):
        with pytest.raises(ValueError, match=said):
            dataclasses.replace(NOTHING, **fields)
    with pytest.raises(ValueError, match="config.method=npo has no term of single"):
        loss_of(LENS, NPO()).make(CONFIG, ROWS)
