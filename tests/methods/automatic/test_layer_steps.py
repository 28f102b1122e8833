# SPDX-License-Identifier: Apache-2.0
"""Tests of how long steps are in each group of layers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.methods.automatic import layer_steps
from jax_surgery.methods.automatic.layer_steps import Group
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim.precondition import ridge
from jax_surgery.optim.precondition.directions import DIRECTIONS, natural

CONFIG = ModelConfig(20, 8, 12, 3, 2, 1, 4)
MOVES = Trainable(1, ("gate", "up", "down"))
BUDGET = 0.03


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), tree)


@pytest.fixture(scope="module")
def params():
    return decoder.init_params(CONFIG, 0)


@pytest.fixture(scope="module")
def factors(params):
    moments = {"mlp_in": (8, 3), "mlp_hidden": (12, 5)}
    rng = np.random.default_rng(1)
    sums = {}
    for kind, (width, scale) in moments.items():
        X = scale * rng.normal(size=(2, 50, width))
        sums[kind] = jnp.asarray(np.einsum("lnx,lny->lxy", X, X), jnp.float32)
    return ridge.factorise(sums, 1e-3)


def test_groups_are_neighbouring_layers_of_one_statistic(factors):
    found = layer_steps.groups(factors)
    assert set(found) == {
        Group(kind, layer, layer + 1)
        for kind in ("mlp_in", "mlp_hidden")
        for layer in (0, 1)
    }
    many = ridge.Factors({"mlp_in": jnp.zeros((26, 1, 1))})
    cuts = [(g.start, g.stop) for g in layer_steps.groups(many)]
    assert len(cuts) == layer_steps.GROUPS
    assert cuts[0][0] == 0 and cuts[-1][1] == 26
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cuts))


def test_weights_are_progress_for_cost_and_have_a_least():
    found = layer_steps.weights(np.asarray([2.0, 1.0, -3.0]), np.asarray([4.0, 1, 1]))
    np.testing.assert_allclose(found, [0.25, 0.5, 0.5 / layer_steps.MOST])
    nothing = layer_steps.weights(np.zeros(3), np.ones(3))
    np.testing.assert_array_equal(nothing, np.ones(3))


@pytest.mark.parametrize("name", ["natural", "orthogonal"])
def test_scaled_factors_give_each_group_its_weight(params, factors, name):
    along = DIRECTIONS[name]
    gradients = random_like(MOVES.take(params), 2)
    of = layer_steps.groups(factors)
    weights = np.asarray([0.25, 1.0, 0.5, 0.04])
    before = along(gradients, factors)
    after = along(gradients, layer_steps.scaled(factors, of, weights, name))
    for group, weight in zip(of, weights, strict=True):
        for key, part in group.of(after).items():
            wanted = weight * group.of(before)[key]
            np.testing.assert_allclose(part, wanted, rtol=1e-4, atol=1e-5)


def test_steps_are_longer_where_they_cost_less(params, factors):
    """KL is quadratic here, and of the second layer's MLP inputs 400 times cheaper."""
    gradients = random_like(MOVES.take(params), 2)
    start = MOVES.take(params)
    costs = {"gate": [1.0, 0.0025], "up": [1.0, 0.0025], "down": [1.0, 1.0]}
    asked = []

    def kl(changed):
        now = MOVES.take(changed)
        asked.append(
            sum(
                float((jnp.asarray(costs[k])[:, None, None] * (now[k] - w) ** 2).sum())
                for k, w in start.items()
            )
        )
        return asked[-1]

    found = layer_steps.measured(
        *(params, gradients, factors, MOVES, kl, kl, BUDGET), name="natural"
    )
    direction = natural(gradients, factors)
    wanted, gain = [], 0.0
    for group in layer_steps.groups(factors):
        part = group.of(direction)
        p = sum(float((part[k] * gradients[k]).sum()) for k in part)
        k = sum(
            float((jnp.asarray(costs[n])[:, None, None] * part[n] ** 2).sum())
            for n in part
        )
        wanted.append(p / (2 * k))
        gain += p**2 / (2 * k)
    # Groups add up here, so that nothing is left to correct.
    weights = np.maximum(np.asarray(wanted), max(wanted) / layer_steps.MOST)
    np.testing.assert_allclose([r["weight"] for r in found.rows], weights, rtol=2e-2)
    cheap = max(found.rows, key=lambda row: row["weight"])
    assert (cheap["statistic"], cheap["start"]) == ("mlp_in", 1)
    assert found.gain == pytest.approx(gain, rel=2e-2)
    # What was measured cost about what it should.
    aim = layer_steps.COST * BUDGET
    assert all(aim / 4 < row["kl"] < 4 * aim for row in found.rows)
    assert len(asked) <= layer_steps.TRIES * len(found.rows) + 1
    weighted = natural(gradients, found.factors)
    of_group = Group("mlp_hidden", 0, 1)
    row = next(r for r in found.rows if (r["statistic"], r["start"]) == of_group[:2])
    np.testing.assert_allclose(
        weighted["down"][0], row["weight"] * direction["down"][0], rtol=1e-4, atol=1e-5
    )
    # It is Newton's: KL of a unit along it is half of the gain.
    there = MOVES.moved(params, MOVES.put({k: -m for k, m in weighted.items()}, params))
    assert kl(there) == pytest.approx(found.gain / 2, rel=2e-2)


def test_a_direction_of_signs_costs_half_a_nat(params, factors):
    """KL is the square of the distance; the gradient's own length says nothing."""
    gradients, start = random_like(MOVES.take(params), 2), MOVES.take(params)

    def kl(changed):
        now = MOVES.take(changed)
        return sum(float(((now[k] - w) ** 2).sum()) for k, w in start.items())

    for scale in (1.0, 100.0):
        longer = {k: scale * m for k, m in gradients.items()}
        found = layer_steps.measured(
            *(params, longer, factors, MOVES, kl, kl, BUDGET), name="orthogonal"
        )
        step = DIRECTIONS["orthogonal"](longer, found.factors)
        moved = MOVES.put({k: -m for k, m in step.items()}, params)
        assert kl(MOVES.moved(params, moved)) == pytest.approx(0.5, rel=2e-2)
        # Newton's along it: P^2 / 2K of the fall P a unit, at K = 1/2.
        fall = sum(float((step[k] * longer[k]).sum()) for k in step)
        assert found.gain == pytest.approx(fall**2, rel=2e-2)


def test_groups_that_do_not_add_up_are_corrected_together(params, factors):
    """KL is the square of the sum of all changes along the direction of each group."""
    gradients = random_like(MOVES.take(params), 2)
    start, direction = MOVES.take(params), natural(gradients, factors)

    def kl(changed):
        now, total = MOVES.take(changed), 0.0
        for group in layer_steps.groups(factors):
            part = group.of(direction)
            inner = sum(float((part[k] * (now[k] - start[k])).sum()) for k in part)
            total += inner / sum(float((m * m).sum()) for m in part.values())
        return total**2

    found = layer_steps.measured(
        *(params, gradients, factors, MOVES, kl, kl, BUDGET), name="natural"
    )
    weighted = natural(gradients, found.factors)
    there = MOVES.moved(params, MOVES.put({k: -m for k, m in weighted.items()}, params))
    assert kl(there) == pytest.approx(found.gain / 2, rel=2e-2)
    assert found.gain == pytest.approx(
        sum(float((weighted[k] * gradients[k]).sum()) for k in weighted), rel=1e-3
    )


def test_all_together_are_measured_on_all_of_the_text(params, factors):
    """A text beside those that groups are measured on costs more."""
    gradients = random_like(MOVES.take(params), 2)
    start = MOVES.take(params)

    def kl(changed):
        now = MOVES.take(changed)
        return sum(float(((now[k] - w) ** 2).sum()) for k, w in start.items())

    def gain_of(factor):
        of_all = lambda changed: factor * kl(changed)
        of = (params, gradients, factors, MOVES, kl, of_all, BUDGET)
        return layer_steps.measured(*of, name="natural").gain

    assert gain_of(10) == pytest.approx(gain_of(1) / 10, rel=2e-2)


def test_a_group_without_a_gradient_keeps_its_row_and_gets_the_least(params, factors):
    gradients = random_like(MOVES.take(params), 2)
    gradients["down"] = gradients["down"].at[0].set(0)
    asked = []

    def kl(changed):
        asked.append(changed)
        return layer_steps.COST * BUDGET

    found = layer_steps.measured(
        *(params, gradients, factors, MOVES, kl, kl, BUDGET), name="natural"
    )
    rows, of = found.rows, layer_steps.groups(factors)
    assert [(r["statistic"], r["start"]) for r in rows] == [(g[0], g[1]) for g in of]
    still = next(r for r in rows if (r["statistic"], r["start"]) == ("mlp_hidden", 0))
    assert still["kl"] == still["size"] == 0
    most = max(row["weight"] for row in rows)
    assert still["weight"] == pytest.approx(most / layer_steps.MOST)
    assert len(asked) == len(of)  # but for that group each, and all together
