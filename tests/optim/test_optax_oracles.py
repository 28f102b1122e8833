# SPDX-License-Identifier: Apache-2.0
"""Muon and Adafactor take the steps of optax' own, where those can be asked.

Ours stay because optax' Muon gathers every matrix on every device of a mesh and its
Adafactor takes a stack's two largest axes for a matrix.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers
from optim_cases import CONFIG, trees
from plain_settings import plain_optimizer

from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import Trainable, as_matrices
from jax_surgery.optim.optimizer import make_optimizer

RATE = 0.02
EVERY = Trainable(0, tuple(MATRICES))


def ours(name, **fields):
    """The steps on three gradients, of the matrices of all layers."""
    params, gradients = trees(3)
    choice = plain_optimizer(name, RATE, schedule="constant", clip=0.0, **fields)
    optimizer = make_optimizer(choice, 10, EVERY)
    return [EVERY.cut(step) for step in steps_of(optimizer, params, gradients)]


def steps_of(optimizer, params, gradients):
    state, update, steps = optimizer.init(params), jax.jit(optimizer.update), []
    for gradient in gradients:
        step, state = update(gradient, state, params)
        steps.append(step)
    return steps


def oracles(optimizer):
    params, gradients = trees(3)
    return steps_of(optimizer, EVERY.cut(params), [EVERY.cut(g) for g in gradients])


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        largest = np.abs(other).max()
        assert largest > 1e-4
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4 * largest)


def muon(beta, nesterov):
    """optax' Muon on stacked kernels, with the step sizes of arXiv 2502.16982."""

    def axes(path, leaf):
        row = MATRICES[path[-2].key]
        cut = 1 + row.inputs
        return MuonDimensionNumbers(tuple(range(1, cut)), tuple(range(cut, leaf.ndim)))

    axes = jax.tree_util.tree_map_with_path(axes, EVERY.cut(trees(0)[0]))
    return optax.contrib.muon(
        RATE,
        beta=beta,
        nesterov=nesterov,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=axes,
    )


def test_muon_takes_the_first_step_of_optax():
    assert_same(ours("muon", momentum=0.9)[0], oracles(muon(0.9, nesterov=True))[0])


def test_muon_iterates_as_optax_on_plain_momentum():
    """optax corrects the bias of both terms of Nesterov's momentum; Jordan's Muon,
    which ours is, sums gradients as `optax.trace` does. The rest is the same."""
    oracle = optax.chain(optax.trace(0.9, nesterov=True), muon(0.0, nesterov=False))
    for found, wanted in zip(ours("muon", momentum=0.9), oracles(oracle), strict=True):
        assert_same(found, wanted)


@pytest.mark.parametrize("name", ["q", "o", "v", "down"])
def test_adafactor_is_optaxs_on_each_layers_matrix(name):
    def layers_of(tree):
        kernel = tree["layers"][MATRICES[name].block][name]["kernel"]
        return list(as_matrices(name, jnp.asarray(kernel)))

    params, gradients = trees(3)
    oracle = optax.adafactor(RATE, multiply_by_parameter_scale=False)
    per_layer = [layers_of(gradient) for gradient in gradients]
    assert len(per_layer[0]) == CONFIG.num_layers
    wanted = steps_of(oracle, layers_of(params), per_layer)
    for found, step in zip(ours("adafactor"), wanted, strict=True):
        assert_same(layers_of(found), step)
