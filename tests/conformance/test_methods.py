# SPDX-License-Identifier: Apache-2.0
"""Tests of every method in the table: formula, gradient and invariances."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import methods_twins as twins
import numpy as np
import on_devices
import optax
import pytest
from plain_settings import plain_loop, plain_objective
from quick_cases import few_of

from jax_surgery import methods
from jax_surgery.data.batch import concatenate, padding
from jax_surgery.data.packing import Packer
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.data.stream import BatchStream
from jax_surgery.data.tokens import Document
from jax_surgery.methods.base import PairMethod, TokenMethod
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.subspace.method import Subspace
from jax_surgery.models import decoder, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.train import step as steps
from jax_surgery.train.loop import train

CONFIG = ModelConfig(37, 16, 24, 2, 4, 2, 4, initializer_range=0.3)
CONTEXT = 24
# The unlearn term, which differs between methods, is most of the gradient.
OBJECTIVE = plain_objective(10.0, 0.5, 0.7)
ROWS = RoleRows(8, 8, 8)
PLACES = {"unlearn": range(8), "update": range(8, 16), "retain": range(16, 24)}
# Options that a model of two layers needs, and others than the defaults.
OPTIONS = {
    "surgery": "ascent=none",
    "rmu": "layer=0",
    "simnpo": "beta=0.5,delta=3,weight=1",
}


@dataclasses.dataclass(frozen=True)
class Outside(TokenMethod):
    """A member from outside the package: descent to a level of log p."""

    level: float = -2.0

    def unlearn(self, found):
        return jnp.square(found.logp_BT - self.level)


def outside(method, now, at, ref, batch, rows):
    def value(r, t, y):
        return (now.logp[r, t, y] - method.level) ** 2

    return twins.mean_over_tokens(batch, rows, value)


TWINS = twins.TWINS | {"outside": outside}
# Those of subspaces have no loss; tests/methods/subspace tests them.
LOSSES = [n for n, m in methods.METHODS.items() if not issubclass(m, Subspace)]
# Other frameworks' defects, to compare with.
SWITCHES = (
    "ceu:skip=0",
    "undial:everywhere=true",
    "pdu:late=true",
    "rmu:layer=0,mixed=true",
)
NAMES = [*LOSSES, *SWITCHES, "outside"]
# Losses of tokens, of logits, of sequences and of hidden states.
QUICK = ("surgery", "undial", "dpo")
SOME = few_of(NAMES, QUICK)
# The losses that share no line with another one.
OWN = few_of(
    NAMES,
    ("surgery", "never_knew", "npo", "simnpo", "dpo", "rmu", "undial", "outside"),
)


# Of the losses that differ in a formula of single tokens alone, one: the rest is shared.
EIGHT = (
    *("surgery", "never_knew", "npo", "simnpo", "dpo", "rmu", "rmu:layer=0,mixed=true"),
    *("undial", "undial:everywhere=true", "ceu", "pdu:late=true", "grad_diff", "ihl"),
)


def method_of(name):
    text = f"{__name__}.Outside:level=-3" if name == "outside" else name
    if name in OPTIONS:
        text += f":{OPTIONS[name]}"
    return methods.parse(text)


def twin_of(name):
    return TWINS[name.partition(":")[0]]


def test_every_member_has_a_twin():
    assert set(twins.TWINS) == set(LOSSES)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("surgery", "config.method=surgery:ascent=level"),
        ("npo", "a larger beta"),
        ("simnpo", "a larger beta"),
        ("dpo", "a larger beta"),
        ("rmu", "a smaller steering"),
        ("wga", "a larger beta"),
        ("never_knew", "a larger config.method=never_knew:noise"),
        ("satimp", "a larger beta1"),
        ("pdu", "a smaller epsilon"),
        ("task_vector", "a smaller scale"),
        ("ihl", None),
        ("outside", None),
    ],
)
def test_what_a_diverging_run_is_told_fits_its_method(name, said):
    loss = Loss(OBJECTIVE, method_of(name))
    advice = loss.advice(ROWS)
    assert advice.startswith("Lower config.optimizer.learning_rate")
    assert advice.endswith(" or lower config.objective.alpha")
    assert (said in advice) if said else advice.count("lower") == 1
    assert ("surgery:ascent" in advice) == (name == "surgery")
    # Without text to unlearn its weight is of no use.
    without = loss.advice(RoleRows(0, 8, 8))
    assert without == "Lower config.optimizer.learning_rate"


def documents(role: int, count: int) -> list[Document]:
    rng = np.random.default_rng(role)
    return [
        Document(rng.integers(0, 37, n).astype(np.int32), np.arange(n) > role % 2, "")
        for n in rng.integers(3, 10, count)
    ]


def packers(method, context=CONTEXT):
    """Eight documents of each role; those to unlearn in pairs where that is needed."""
    groups = (2 if isinstance(method, PairMethod) else 1, 1, 1)
    return [
        Packer(documents(role, 8), context, "sequences", groups[role])
        for role in range(3)
    ]


def batch_of(method, order=None, alone=False):
    """All documents in 8 rows a role, padding among them."""
    parts = []
    for packer in packers(method):
        if alone:  # one document, or pair, a row
            elements = [
                e | {"index_segment_ids": (e["index"] >= 0).astype(np.int32)}
                for e in _rows_of_their_own(packer)
            ]
            rows = packer.rows(elements)
        else:
            rows = packer.pack(order)
        empty = 8 - len(rows)
        parts.append(concatenate([rows, padding(empty, CONTEXT)]) if empty else rows)
    return jax.tree.map(
        jnp.asarray, twins.with_others(concatenate(parts).for_devices())
    )


def _rows_of_their_own(packer):
    units = np.split(np.arange(packer.num_tokens), packer.starts[1:])
    group = len(units) // packer.num_units
    for first in range(0, len(units), group):
        index = np.concatenate(units[first : first + group])
        yield {"index": np.pad(index, (0, CONTEXT - len(index)), constant_values=-1)}


def gradients(models, batch, loss, rows=ROWS, parts=1):
    """(metrics, gradients) of a whole batch and of `models`, (parameters, the frozen
    ones); in two programs, so that cases that differ in one share the other."""
    params, reference = models
    batch = prepared(reference, batch, loss, rows)
    return of_prepared(params, batch, loss, rows, parts)


@functools.partial(jax.jit, static_argnames=("loss", "rows"))
def prepared(reference, batch, loss, rows):
    return loss.prepare(batch, reference, CONFIG, rows)


@functools.partial(jax.jit, static_argnames=("loss", "rows", "parts"))
def of_prepared(params, batch, loss, rows, parts):
    loss_fn = loss.make(CONFIG, rows.split(parts))
    return steps.loss_and_gradients(loss_fn, params, batch, rows, parts)


@jax.jit
def seen(params, batch):
    hidden = decoder.forward_packed(params, CONFIG, batch)
    return hidden, decoder.forward_packed(params, CONFIG, batch, num_layers=1)


def observe(params, batch):
    hidden, states = seen(params, batch.text)
    return twins.Seen.of(hidden, output_head.kernel(params), states)


@pytest.fixture(scope="module")
def models():
    return decoder.init_params(CONFIG, 0), decoder.init_params(CONFIG, 1)


@pytest.fixture(scope="module", params=OWN)
def case(request, models):
    """(name, method, loss, batch, metrics, gradients)."""
    method = method_of(request.param)
    loss, batch = Loss(OBJECTIVE, method), batch_of(method)
    found = gradients(models, batch, loss)
    return request.param, method, loss, batch, *found


def assert_close(found, wanted):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        close = 3e-6 * max(1.0, float(np.abs(y).max(initial=0.0)))
        np.testing.assert_allclose(
            x, y, rtol=3e-4, atol=close, err_msg=jax.tree_util.keystr(path)
        )


def test_loss_and_gradient_equal_numpys(case, models):
    """The gradient by finite differences along itself, and along a random direction."""
    name, method, _, batch, metrics, grads = case
    params, reference = models
    ref, at = observe(reference, batch), observe(params, batch)

    def twin(params):
        now = observe(params, batch)
        arguments = (method, OBJECTIVE, now, at, ref, batch, PLACES)
        terms = twin_of(name)(method, now, at, ref, batch, PLACES["unlearn"])
        common = twins.loss("surgery", *arguments)
        plain = twins.surgery(method, now, at, ref, batch, PLACES["unlearn"])
        return common + OBJECTIVE.alpha * (terms - plain), terms

    wanted, term = twin(params)
    assert float(metrics["loss"]) == pytest.approx(wanted, rel=2e-5)
    assert float(metrics["unlearn_loss"]) == pytest.approx(term, rel=2e-5)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    noise = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    random = jax.tree.unflatten(tree, noise)
    for direction, size in ((grads, 5e-3), (random, 5e-2)):
        step = optax.tree.scale(size / optax.tree.norm(direction), direction)
        ahead = twin(optax.tree.add(params, step))[0]
        behind = twin(optax.tree.sub(params, step))[0]
        slope = float(optax.tree.vdot(grads, step))
        assert (ahead - behind) / 2 == pytest.approx(slope, rel=5e-3, abs=2e-4)


def test_packing_and_padding_change_nothing(case, models):
    _, method, loss, _, metrics, grads = case
    for variant in (batch_of(method, order=3), batch_of(method, alone=True)):
        found = gradients(models, variant, loss)
        assert_close(found, (metrics, grads))


@pytest.mark.parametrize("case", SOME, indirect=True)
def test_micro_batches_change_nothing(case, models):
    _, _, loss, batch, metrics, grads = case
    assert_close(gradients(models, batch, loss, parts=2), (metrics, grads))


def test_a_reference_that_is_given_equals_the_one_that_is_computed(case, models):
    _, _, loss, batch, metrics, grads = case
    params, reference = models
    readings = loss.readings(ROWS)
    given = {}
    for role, reading in readings.items():
        rows = batch.text.take(ROWS, role)
        read = reading.read(reference, CONFIG, rows, decoder.DEFAULT_COMPUTE)
        given[reading.field] = read
    # Of the frozen model the output head is all that is still needed.
    head = output_head.parameters(reference)
    found = gradients((params, head), batch.replace(**given), loss)
    assert_close(found, (metrics, grads))


@pytest.mark.parametrize("case", SOME, indirect=True)
def test_a_resumed_run_is_bit_equal(case, tmp_path, models):
    _, method, loss, *_ = case
    rows = RoleRows(2, 2, 2)
    step = steps.make_train_step(CONFIG, loss, rows, optax.sgd(0.05))

    def run(folder, count):
        roles = dict(zip(("unlearn", "update", "retain"), packers(method), strict=True))
        stream = BatchStream(roles, dict.fromkeys(roles, 2), 0)
        params = jax.tree.map(jnp.copy, models[0])
        state = steps.init_state(params, optax.sgd(0.05))
        return train(
            lambda state, batch: step(state, batch.place(6), models[1]),
            # As a restored one is, or the step is compiled again for it.
            jax.device_put(state, jax.devices()[0]),
            stream,
            steps=count,
            directory=str(tmp_path / folder),
            settings=plain_loop(checkpoint_every=0),
            title="test",
        ).params

    whole = run("whole", 4)
    run("parts", 2)
    for x, y in zip(
        jax.tree.leaves(run("parts", 4)), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    moved = [np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (whole, models[0])))]
    assert any(moved)


ON_EIGHT = """
import json, jax, numpy as np
import test_methods as cases
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.loss import Loss
from jax_surgery.models import decoder, sharding
from jax_surgery.parallel import mesh as meshes
rows = RoleRows(8, 8, 8, 8)
# The same rows as on one device: part s has the s-th row of each role.
order = np.arange(24).reshape(3, 8).T.ravel()
def of(name):
    method = cases.method_of(name)
    batch = jax.tree.map(lambda x: np.asarray(x)[order], cases.batch_of(method))
    found = cases.gradients(models, batch.place(24), Loss(cases.OBJECTIVE, method), rows)
    return cases.summary(*found)
with jax.set_mesh(meshes.make_mesh(meshes.MeshShape(1, 8, 1))):
    place = sharding.parameter_shardings(cases.CONFIG)
    init = jax.jit(decoder.init_params, static_argnums=(0, 1), out_shardings=place)
    models = init(cases.CONFIG, 0), init(cases.CONFIG, 1)
    print(json.dumps({name: of(name) for name in cases.EIGHT}))
"""


def summary(metrics, grads):
    """Metrics by name, and the norm of each parameter's gradient."""
    norms = [float(np.linalg.norm(np.asarray(g))) for g in jax.tree.leaves(grads)]
    return [*(float(metrics[name]) for name in sorted(metrics)), *norms]


@pytest.fixture(scope="module")
def on_eight():
    return json.loads(on_devices.run(ON_EIGHT).splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", EIGHT, indirect=True)
def test_eight_devices_give_what_one_gives(case, on_eight):
    name, *_, metrics, grads = case
    one = summary(metrics, grads)
    np.testing.assert_allclose(on_eight[name], one, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name, rows, message",
    [
        ("npo", RoleRows(0, 2, 2), "config.method=npo needs text of the role unlearn"),
        ("rmu", RoleRows(2, 0, 2), "layer=7, but the model has 2 layers; use 0 to 1"),
    ],
)
def test_what_a_method_lacks_is_named(name, rows, message):
    with pytest.raises(ValueError, match=message):
        Loss(OBJECTIVE, methods.parse(name)).make(CONFIG, rows)


@pytest.mark.parametrize("name", few_of(["dpo", "rmu"], QUICK))
def test_no_logits_of_all_tokens_in_the_compiled_step(name):
    vocab, context, count = 32000, 64, 64
    config = ModelConfig(vocab, 32, 64, 2, 2, 2, 16)
    rows = RoleRows(count, count, count)
    loss = Loss(OBJECTIVE, method_of(name))
    step = steps.make_train_step(config, loss, rows, optax.sgd(0.1))
    params = decoder.abstract_params(config)
    state = jax.eval_shape(lambda p: steps.init_state(p, optax.sgd(0.1)), params)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((rows.total, context), x.dtype),
        batch_of(loss.method),
    )
    compiled = step.lower(state, batch, params).compile()
    one_role_of_logits = count * context * vocab * 4
    sizes = compiled.memory_analysis()
    assert sizes and sizes.temp_size_in_bytes < one_role_of_logits / 2
