# SPDX-License-Identifier: Apache-2.0
"""The objective against float64 NumPy, and its invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_cases import CONFIG, CONTEXT, documents, make_batch
from plain_settings import plain_loss, plain_optimizer
from settings_cases import settings_of

from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.loss import Loss
from jax_surgery.models import decoder, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.train import step as steps

forward = jax.jit(decoder.forward, static_argnums=1)


@pytest.fixture(scope="module")
def models():
    return decoder.init_params(CONFIG, 0), decoder.init_params(CONFIG, 1)


@functools.partial(jax.jit, static_argnames=("rows", "average"))
def prepare(batch, rows, reference, average):
    return plain_loss().prepare(batch, reference, CONFIG, rows, average=average)


def numpy_terms(params, reference, batch, rows, wanted: Loss, average):
    """Each term and its gradient by the output head, in float64."""
    objective, method = wanted.objective, wanted.method
    inputs = (batch.tokens_BT, batch.segment_ids_BT, batch.positions_BT)
    hidden, frozen = (
        np.asarray(forward(p, CONFIG, *inputs), np.float64) for p in (params, reference)
    )
    head, frozen_head = (
        np.asarray(output_head.kernel(p), np.float64) for p in (params, reference)
    )
    arrays = (batch.tokens_BT, batch.segment_ids_BT, batch.weights_BT)
    tokens, segments, weights = map(np.asarray, arrays)

    def log_softmax(z):
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    logp, logq = log_softmax(hidden @ head), log_softmax(frozen @ frozen_head)
    p, onehot = np.exp(logp), np.eye(37)
    terms, grads = {}, {}
    ends = np.cumsum([0, rows.unlearn, rows.update, rows.retain])
    for number, role in enumerate(("unlearn", "update")):
        value, grad, total = 0.0, np.zeros_like(head), 0.0
        for b in range(ends[number], ends[number + 1]):
            for t in range(CONTEXT - 1):
                w = float(weights[b, t + 1])
                y = tokens[b, t + 1]
                total += w
                dz, v = onehot[y] - p[b, t], logp[b, t, y]
                if role == "unlearn" and method.ascent in ("margin", "level"):
                    v = logp[b, t, y] - np.log1p(-p[b, t, y])
                    dz = (onehot[y] - p[b, t]) / (1 - p[b, t, y])
                    if method.ascent == "level":
                        soft, far = method.softness, v - method.margin
                        dz = dz * np.clip(far / soft, -1, 1)
                        near = abs(far) <= soft
                        v = far**2 / (2 * soft) if near else abs(far) - soft / 2
                    elif v <= method.margin:
                        v, dz = 0.0, 0 * dz
                if role == "unlearn" and method.ascent == "cap":
                    dz = dz * (v > -method.cap)
                    v = max(v, -method.cap)
                sign = 1 if role == "unlearn" else -1
                value += sign * w * v
                grad += sign * w * np.outer(hidden[b, t], dz)
        terms[role], grads[role] = value / total, grad / total
    value, grad, total = 0.0, np.zeros_like(head), 0.0
    for b in range(ends[2], ends[3]):
        for t in range(CONTEXT):
            if segments[b, t]:
                length = (segments[b] == segments[b, t]).sum()
                w = 1.0 if average == "tokens" else 1.0 / length
                P, Q, lp, lq = p[b, t], np.exp(logq[b, t]), logp[b, t], logq[b, t]
                if objective.kl_direction == "model_to_reference":
                    kl = (P * (lp - lq)).sum()
                    dz = P * (lp - lq - kl)
                else:
                    kl, dz = (Q * (lq - lp)).sum(), P - Q
                value, grad, total = (
                    value + w * kl,
                    grad + w * np.outer(hidden[b, t], dz),
                    total + w,
                )
    terms["retain"], grads["retain"] = value / total, grad / total
    weight = {
        "unlearn": objective.alpha,
        "update": objective.beta,
        "retain": objective.gamma,
    }
    loss = sum(weight[r] * terms[r] for r in terms)
    return loss, sum(weight[r] * grads[r] for r in terms), terms


@pytest.mark.parametrize("average", ["sequences", "tokens"])
@pytest.mark.parametrize(
    "loss",
    [
        plain_loss(1.0, 0.0, 0.0),
        plain_loss(0.0, 1.0, 0.0),
        plain_loss(0.0, 0.0, 1.0),
        plain_loss(0.0, 0.0, 1.0, kl_direction="reference_to_model"),
        plain_loss(1.0, 0.0, 0.0, ascent="cap", cap=4.0),
        plain_loss(1.0, 0.0, 0.0, ascent="margin", margin=-4.0),
        plain_loss(0.7, 1.3, 2.0, ascent="margin", margin=-3.0),
        plain_loss(0.7, 1.3, 2.0, ascent="level", margin=-3.5, softness=0.5),
    ],
    ids=str,
)
def test_terms_and_gradients_equal_numpy(models, loss, average):
    params, reference = models
    batch, rows = make_batch(average)
    batch = prepare(batch, rows, reference, average)
    loss_fn = jax.jit(jax.value_and_grad(loss.make(CONFIG, rows), has_aux=True))
    (value, metrics), grads = loss_fn(params, batch)
    wanted, gradient, terms = numpy_terms(params, reference, batch, rows, loss, average)
    np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(grads["head"]["kernel"], gradient, rtol=2e-3, atol=2e-6)
    np.testing.assert_allclose(metrics["retain_kl"], terms["retain"], rtol=2e-5)


def test_padded_positions_weaken_the_kl_by_the_share_of_padding(models):
    params, reference = models
    batch, rows = make_batch("sequences")
    found = {}
    for positions, average in (("all", "tokens"), ("padded", "sequences")):
        loss = plain_loss(0.0, 0.0, 1.0, retained_positions=positions)

        @jax.jit
        def kl(batch, loss=loss, average=average):
            ready = loss.prepare(batch, reference, CONFIG, rows, average=average)
            return loss.make(CONFIG, rows)(params, ready)[1]["retain_kl"]

        found[positions] = float(kl(batch))
    lengths = [len(d.tokens) for d in documents(2, 6)]
    share = sum(lengths) / (len(lengths) * max(lengths))
    assert share < 0.9
    assert found["padded"] == pytest.approx(share * found["all"], rel=1e-4)


@functools.partial(jax.jit, static_argnames=("rows", "parts"))
def gradients(params, batch, rows, parts):
    loss = plain_loss(0.5, 1.0, 2.0, ascent="margin", margin=-3.0)
    loss_fn = loss.make(CONFIG, rows.split(parts))
    return steps.loss_and_gradients(loss_fn, params, batch, rows, parts)


def full_gradient(models, batch, rows, average, parts=1):
    params, reference = models
    return gradients(params, prepare(batch, rows, reference, average), rows, parts)


def assert_trees_close(a, b):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_allclose(
            x, y, rtol=3e-4, atol=3e-6, err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize("average", ["sequences", "tokens"])
def test_packing_order_and_padding_change_nothing(models, average):
    base = full_gradient(models, *make_batch(average), average)
    for variant in (
        make_batch(average, order_seed=3),
        make_batch(average, extra_rows=2),
        make_batch(average, context=24),
    ):
        assert_trees_close(full_gradient(models, *variant, average), base)


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_change_nothing(models, parts):
    batch, rows = make_batch("sequences")
    assert rows == RoleRows(4, 4, 4)
    base = full_gradient(models, batch, rows, "sequences")
    assert_trees_close(full_gradient(models, batch, rows, "sequences", parts), base)


def test_rows_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="rows_update=3 does not divide"):
        RoleRows(4, 3, 4).split(2)


def test_kl_is_zero_at_the_reference_and_has_no_gradient_there(models):
    params, _ = models
    batch, rows = make_batch("tokens")
    batch = prepare(batch, rows, params, "tokens")
    loss_fn = plain_loss(0.0, 0.0, 1.0).make(CONFIG, rows)
    both = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (loss, _), grads = both(params, batch)
    assert abs(float(loss)) < 1e-6
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)) < 1e-5


def test_a_cached_reference_equals_the_live_one(models):
    params, reference = models
    batch, rows = make_batch("tokens")
    live = prepare(batch, rows, reference, "tokens")
    inputs = (batch.tokens_BT, batch.segment_ids_BT, batch.positions_BT)
    hidden = forward(reference, CONFIG, *inputs)
    given = batch.replace(reference_hidden_RTD=rows.take(hidden, "retain"))
    cached = prepare(given, rows, reference, "tokens")
    loss_fn = jax.jit(plain_loss().make(CONFIG, rows))
    np.testing.assert_allclose(
        loss_fn(params, live)[0], loss_fn(params, cached)[0], rtol=1e-6
    )


def test_no_logits_of_all_tokens_in_the_compiled_step():
    # Short rows: attention's [rows, heads, T, T] must not hide what is looked for.
    vocab, context, count = 32000, 64, 64
    config = ModelConfig(vocab, 32, 64, 2, 2, 2, 16)
    rows = RoleRows(count, count, count)
    shape = (rows.total, context)
    optimizer = make_optimizer(plain_optimizer(), 10)
    train_step = steps.make_train_step(config, plain_loss(), rows, optimizer)
    params = decoder.abstract_params(config)
    state = jax.eval_shape(lambda p: steps.init_state(p, optimizer), params)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    weights = jax.ShapeDtypeStruct(shape, jnp.float32)
    batch = Batch(ids, ids, ids, weights_BT=weights)
    compiled = train_step.lower(state, batch, params).compile()
    one_role_of_logits = count * context * vocab * 4
    assert compiled.memory_analysis().temp_size_in_bytes < one_role_of_logits / 2


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"method": "surgery:ascent=margn"}, "none, cap, margin"),
        ({"method": "surgery:cap=0"}, "must be positive"),
        ({"objective.kl_direction": "forward"}, "choose one of model_to_reference"),
        ({"objective.retain": "ce"}, "choose one of kl, nll"),
    ],
)
def test_bad_choices_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        settings_of("surgery", fields)


def test_a_bounded_ascent_is_not_told_to_bound_itself():
    for ascent in ("cap", "margin", "level"):
        advice = plain_loss(ascent=ascent).advice(RoleRows(8, 8, 8))
        assert "ascent" not in advice and "alpha" in advice
