# SPDX-License-Identifier: Apache-2.0
"""Sharpness-aware gradients against the formula, term by term."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objective_cases import CONFIG, make_batch
from plain_settings import plain_objective

from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods import parse, sharpness
from jax_surgery.methods.loss import Loss
from jax_surgery.models import decoder
from jax_surgery.models.trainable import ALL
from jax_surgery.train import step as steps

RHO = 0.5
OBJECTIVE = plain_objective(3.0, 0.5, 0.7)
COMPUTE = decoder.DEFAULT_COMPUTE


def of(objective, method=f"npo_sam:rho={RHO}"):
    return Loss(objective, parse(method))


@pytest.fixture(scope="module")
def case():
    """(parameters, prepared batch, rows)."""
    params, reference = (decoder.init_params(CONFIG, seed) for seed in range(2))
    batch, rows = make_batch("sequences")
    prepare = jax.jit(lambda b: of(OBJECTIVE).prepare(b, reference, CONFIG, rows))
    return params, prepare(batch), rows


def gradients(make, case, parts, loss=None):
    params, batch, rows = case
    found = make(CONFIG, loss or of(OBJECTIVE), rows, COMPUTE, parts, ALL)
    return jax.jit(lambda p, b: found(lambda x: x, p, b))(params, batch)


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_unlearn_terms_gradient_is_taken_uphill(case, parts):
    params, batch, rows = case
    metrics, found = gradients(sharpness.make_gradients, case, parts)

    def of_terms(**weights):
        loss = of(dataclasses.replace(OBJECTIVE, **weights)).make(CONFIG, rows)
        return jax.jit(jax.value_and_grad(lambda p: loss(p, batch)[0]))

    unlearn, rest = of_terms(beta=0.0, gamma=0.0), of_terms(alpha=0.0)
    (value, uphill), (others, own) = unlearn(params), rest(params)
    size = optax.tree.norm(uphill)
    there = jax.tree.map(lambda p, g: p + RHO * g / size, params, uphill)
    wanted = jax.tree.map(jnp.add, unlearn(there)[1], own)
    for x, y in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    # What is logged is of the parameters themselves.
    assert float(metrics["loss"]) == pytest.approx(float(value + others), rel=1e-5)
    assert unlearn(there)[0] > value
    assert {"unlearn_loss", "update_ce", "retain_kl"} <= metrics.keys()
    plain = gradients(steps.make_gradients, case, parts)[1]
    gap = optax.tree.norm(jax.tree.map(jnp.subtract, found, plain))
    assert float(gap) > 0.01 * float(optax.tree.norm(plain))


@pytest.mark.slow
def test_text_to_unlearn_alone_will_do(case):
    params, batch, rows = case
    alone = rows.only_of("unlearn")
    text = batch.take(rows, "unlearn").replace(
        **batch.shared, reference_logp_UT=batch.reference_logp_UT
    )
    metrics, grads = gradients(sharpness.make_gradients, (params, text, alone), 1)
    assert alone == RoleRows(rows.unlearn, 0, 0)
    assert "retain_kl" not in metrics and float(optax.tree.norm(grads)) > 0
