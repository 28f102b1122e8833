# SPDX-License-Identifier: Apache-2.0
"""Plug-ins from outside the package: a metric, a benchmark and an attack, by name."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp

from jax_surgery.attacks.base import Attacked, Budget, Target, Watch
from jax_surgery.benchmarks.base import Benchmark
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.tokens import TextScores, score_texts
from jax_surgery.models.model import Model


def _worst(scores: TextScores, probe: Probe) -> Estimate:
    del probe
    nats = -scores.logp / scores.tokens
    return Estimate(
        float(nats.max()), (float(nats.min()), float(nats.max())), len(nats)
    )


WORST_TEXT = Metric(
    name="worst_text",
    direction="ignorant",
    unit="nats per token",
    counts="texts",
    source="a test",
    observe=score_texts,
    estimate=_worst,
)


@dataclasses.dataclass(frozen=True)
class Numbers(Benchmark):
    """Sums of small numbers; those below `limit` are to be unlearned."""

    folder: str = ""
    limit: int = 4

    def groups(self) -> tuple[Group, ...]:
        """Two groups, whose files lie in `folder`."""
        folder = pathlib.Path(self.folder)
        found = []
        for role, numbers in (
            ("unlearn", range(self.limit)),
            ("retain", range(self.limit, 12)),
        ):
            rows = [
                {"prompt": f"the number {i} is", "answer": f" {i * 7 % 13}"}
                for i in numbers
            ]
            file = folder / f"{role}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            found.append(Group(role, role, str(file)))
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Adds seeded noise to every parameter, again and again."""

    scale: float = 0.01
    steps: int = 3

    def __call__(
        self, model: Model, target: Target, budget: Budget, seed: int, watch: Watch
    ) -> Attacked:
        """See `attacks.base.Attack`."""
        key, spent, params = jax.random.key(seed), Budget(), model.params
        watch(spent, model)
        for step in range(self.steps):
            if not budget.allows(spent.plus(Budget(1))):
                break
            leaves, tree = jax.tree.flatten(params)
            keys = jax.random.split(jax.random.fold_in(key, step), len(leaves))
            moved = [
                leaf + self.scale * jax.random.normal(k, leaf.shape, jnp.float32)
                for leaf, k in zip(leaves, keys, strict=True)
            ]
            params = jax.tree.unflatten(tree, moved)
            spent = spent.plus(Budget(1))
            watch(spent, model.with_params(params))
        return Attacked(model.with_params(params), target.probes, spent)


@dataclasses.dataclass(frozen=True)
class Coarse:
    """Rounds every parameter to a grid: an attack without steps."""

    grid: float = 0.05

    def __call__(
        self, model: Model, target: Target, budget: Budget, seed: int, watch: Watch
    ) -> Attacked:
        """See `attacks.base.Attack`."""
        rounded = lambda leaf: self.grid * jnp.round(leaf / self.grid)
        attacked = model.with_params(jax.tree.map(rounded, model.params))
        watch(Budget(), attacked)
        return Attacked(attacked, target.probes, Budget())
