# SPDX-License-Identifier: Apache-2.0
"""How far a Newton step goes in each group of matrices, measured before the first one.

The preconditioner knows what a change of a matrix does to that matrix's own outputs on
retained text, and not what becomes of it in the layers above. So the same change costs
orders of magnitude more KL in some layers than in others. Of a direction D_g of the
matrices of a group alone the loss falls by p_g a unit, and KL grows as k_g times the
square. With lambda as the weight of the KL the loss is least, on that line, at

    w_g D_g / lambda,    w_g = p_g / (2 k_g)

so that w_g D_g is what the curvature of the KL in place of the factors would give. p_g is
the inner product of D_g with the gradient; k_g is measured on a part of the held-out text,
with a change that costs about `COST` of the budget. Groups do not add up, and a few texts
may hold most of the KL: all groups together are moved along D = sum w_g D_g too, measured
on all of the text, where the loss falls by P = sum w_g p_g a unit and KL grows as K times
the square. The weights are multiplied by P / (2K), which is 1 of a quadratic KL whose
groups add up; and those of a direction that is as long whatever the gradient's length
(`directions.OF_SIGNS`) by 1 / sqrt(2K), so that D itself costs half a nat. Either way a step
of length s costs s^2 / 2 nats.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from jax_surgery.models.layout import MATRICES
from jax_surgery.models.trainable import Matrices, Trainable
from jax_surgery.optim.precondition.directions import DIRECTIONS, OF_SIGNS
from jax_surgery.optim.precondition.ridge import Factors
from jax_surgery.parallel import distributed, progress
from jax_surgery.storage import files

FILE = "layer_steps.json"
GROUPS = 5  # of layers
COST = 0.05  # of the budget, that a measured change costs about
NEAR = 3.0  # factor of COST within which a change is taken
TRIES = 3  # of a group's change, at most
SIZE = 5e-4  # of the first change, relative to the norm of all moving matrices
LEAST = 1e-9  # nats of a change, since its cost is divided by
MOST = 1e4  # that groups' weights differ by, at most


class Group(NamedTuple):
    """Matrices whose steps are as long.

    Attributes:
      statistic: of their inputs (`layout.Row.statistic`).
      start, stop: their layers, counted from the first that moves.
    """

    statistic: str
    start: int
    stop: int

    def of(self, matrices: Matrices) -> Matrices:
        """These of matrices, and zeros in place of the others."""

        def part(name: str, matrix: jax.Array) -> jax.Array:
            layer = jnp.arange(len(matrix))[:, None, None]
            inside = (layer >= self.start) & (layer < self.stop)
            mine = MATRICES[name].statistic == self.statistic
            return jnp.where(inside & mine, matrix, 0)

        return {name: part(name, matrix) for name, matrix in matrices.items()}


def groups(factors: Factors) -> list[Group]:
    """Groups of neighbouring layers, for each statistic of the inputs."""
    found = []
    for statistic, lower in factors.lower.items():
        layers = len(lower)
        cuts = np.linspace(0, layers, min(GROUPS, layers) + 1).round().astype(int)
        found += [
            Group(statistic, int(start), int(stop))
            for start, stop in itertools.pairwise(cuts)
        ]
    return found


def weights(progress: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """p_g / (2 k_g); groups without progress get the least.

    Args:
      progress: p_g, nats a unit of D_g, [groups].
      cost: k_g, nats a square unit, [groups].
    """
    found = np.maximum(progress, 0) / (2 * np.maximum(cost, np.finfo(np.float64).tiny))
    most = found.max()
    return np.maximum(found, most / MOST) if most > 0 else np.ones(len(found))


def scaled(
    factors: Factors, of: list[Group], weights: np.ndarray, name: str
) -> Factors:
    """Factors whose direction is w_g D_g: those of A / w_g, and where the direction is of
    signs, L^-T sign(L^-1 G) with L L^T = A, of A / w_g^2.

    Args:
      name: of the direction, in `DIRECTIONS`.
    """
    power = 1.0 if name in OF_SIGNS else 0.5
    scales = {k: np.ones(len(lower)) for k, lower in factors.lower.items()}
    for group, weight in zip(of, weights, strict=True):
        scales[group.statistic][group.start : group.stop] = weight**-power
    lower = {
        kind: lower * jnp.asarray(scales[kind], lower.dtype)[:, None, None]
        for kind, lower in factors.lower.items()
    }
    return factors._replace(lower=lower)


class Measured(NamedTuple):
    """What was measured before the first step.

    Attributes:
      factors: of the preconditioner, with the weights of groups of matrices.
      gain: fall of the loss along the direction they give, nats; 0 where there is
        nothing to gain.
      rows: what was measured of each group, and of all together.
    """

    factors: Factors
    gain: float
    rows: list[dict[str, Any]]


class _Line(NamedTuple):
    """A measure along a direction: how many units were moved, and the nats they cost."""

    units: float
    nats: float


def measured(
    params: Any,
    gradients: Matrices,
    factors: Factors,
    trainable: Trainable,
    kl: Callable[[Any], float],
    kl_of_all: Callable[[Any], float],
    budget: float,
    name: str,
) -> Measured:
    """Factors with the weights of groups of matrices.

    Args:
      params: before the first step.
      gradients: of the loss at `params`, [layers, inputs, outputs] each.
      factors: of the preconditioner.
      kl: of parameters, on a part of the held-out text, nats per token.
      kl_of_all: on all of it.
      budget: nats per token.
      name: of the direction, in `DIRECTIONS`.
    """
    along = jax.jit(DIRECTIONS[name])
    direction, whole = along(gradients, factors), _norm(trainable.take(params))
    # Compiled, so that nothing but what moves is copied.
    moved = jax.jit(
        lambda params, part, unit: trainable.moved(
            params, trainable.put({k: -unit * m for k, m in part.items()}, params)
        )
    )

    def cost_of(part: Matrices, units: float, kl: Callable[[Any], float]) -> _Line:
        """A change of about `COST` of the budget, tried from `units` on."""
        for _ in range(TRIES):
            tried = _Line(units, max(kl(moved(params, part, units)), LEAST))
            if COST * budget / NEAR < tried.nats < COST * budget * NEAR:
                break
            units *= min(max(math.sqrt(COST * budget / tried.nats), 0.05), 20.0)
        return tried

    of = groups(factors)
    progress, cost = np.zeros(len(of)), np.ones(len(of))
    rows: list[dict[str, Any]] = []
    size = SIZE * whole
    for number, group in enumerate(_shown(of)):
        part, line = group.of(direction), _Line(0.0, 0.0)
        if norm := _norm(part):
            line = cost_of(part, size / norm, kl)
            size = line.units * norm * math.sqrt(COST * budget / line.nats)
            progress[number] = _inner(part, gradients)
            cost[number] = line.nats / line.units**2
        rows.append(
            group._asdict() | {"size": line.units * norm / whole, "kl": line.nats}
        )
    chosen = weights(progress, cost)
    gain = float((chosen * progress).sum())
    if gain > 0:
        together = along(gradients, scaled(factors, of, chosen, name))
        units = math.sqrt(2 * COST * budget / gain)
        line = cost_of(together, units, kl_of_all)
        curvature = 2 * line.nats / line.units**2
        signs = name in OF_SIGNS
        chosen *= 1 / math.sqrt(curvature) if signs else gain / curvature
        gain *= gain / curvature
    for row, weight in zip(rows, chosen, strict=True):
        row["weight"] = float(weight)
    return Measured(scaled(factors, of, chosen, name), max(gain, 0.0), rows)


def _inner(one: Matrices, other: Matrices) -> float:
    return sum(float(jnp.vdot(one[name], other[name])) for name in one)


def _norm(matrices: Matrices) -> float:
    return float(optax.tree.norm(matrices))


def write(directory: str, found: list[dict[str, Any]]) -> None:
    """Keeps what was measured in the run's directory."""
    text = json.dumps(found, indent=1)
    distributed.on_lead(lambda: files.write_text(epath.Path(directory) / FILE, text))


def read(directory: str) -> list[dict[str, Any]]:
    """What was measured; [] of a run that did not."""
    file = epath.Path(directory) / FILE
    return json.loads(file.read_text()) if file.exists() else []


def _shown(of: list[Group]) -> Iterable[Group]:
    title = "how steps of each layer move held-out text"
    return progress.Bar(of, title=title, unit="group")
