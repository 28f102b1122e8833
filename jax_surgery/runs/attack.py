# SPDX-License-Identifier: Apache-2.0
"""Attacks a model from which something was removed, and a model that never knew it.

The run: check the data -> load the models -> attack each in the same ways, scored along
the way on the held-out text -> verdict, results.json, report.
"""

import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any, ClassVar

from jax_surgery import attacks, benchmarks
from jax_surgery.attacks import verdict
from jax_surgery.attacks.base import Attack, Budget, Target
from jax_surgery.attacks.curve import Point, all_measured
from jax_surgery.attacks.verdict import Attacked
from jax_surgery.benchmarks.base import target_of
from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import at_least, check_seed, names
from jax_surgery.data import overlap
from jax_surgery.data.groups import Group
from jax_surgery.data.prompts import AsChat
from jax_surgery.models.compute import Compute
from jax_surgery.models.trainable import ALL
from jax_surgery.parallel import progress
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.report import attack as attack_report
from jax_surgery.runs import asked
from jax_surgery.train import devices


@dataclasses.dataclass(frozen=True)
class AttackData:
    """The adversary's text and the held-out text, where no benchmark provides them.

    Attributes:
      relearn: sources of text that was removed, comma-separated.
      held_out: sources of what is asked; "" holds out half of `relearn`, drawn.
      chat: whether questions are asked in the model's chat template.
      context: tokens a row.
    """

    relearn: str
    held_out: str
    chat: AsChat
    context: int

    def __post_init__(self):
        at_least(2, self, "config.data", "context")


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """An attack (`run = "attack"`).

    Attributes:
      model: a finished run's workdir, a directory or hub name, or a benchmark's name.
      reference_model: the same, of a model that never knew; "" leaves it out.
      attack: names in `attacks.ATTACKS`, with options; several with semicolons between.
      benchmark: its name in `benchmarks.BENCHMARKS`, with options; "" takes `data`.
      metrics: names in `metrics.METRICS`, comma-separated; "" takes the benchmark's.
      measure_at: steps after which the model is asked, comma-separated; it is asked
        before and after the attack in any case.
      budget: what may be spent; 0 sets no limit.
    """

    run: str
    model: str
    reference_model: str
    attack: str
    benchmark: str
    metrics: str
    measure_at: str
    seed: int
    data: AttackData
    budget: Budget
    mesh: MeshShape
    compute: Compute

    FIXED: ClassVar = {"compute": {"unroll": 0}}

    def __post_init__(self):
        if bool(self.benchmark) == bool(self.data.relearn):
            raise ValueError(
                f"config.benchmark={self.benchmark!r} and config.data.relearn="
                f"{self.data.relearn!r}: give one of the two, a benchmark or your own "
                "records of what was removed."
            )
        check_seed(self.seed)
        _ = self.steps  # raises
        if not attacks.parse_all(self.attack):
            raise ValueError(
                f"config.attack={self.attack!r} names no attack; use some of "
                f"{', '.join(attacks.ATTACKS)}, with semicolons between."
            )

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps after which the model is asked."""
        try:
            return tuple(int(text) for text in names(self.measure_at))
        except ValueError:
            raise ValueError(
                f"config.measure_at={self.measure_at!r} must be whole numbers, "
                "comma-separated, e.g. 5,10,20,80."
            ) from None


def target_for(settings: AttackSettings) -> Target:
    """What the adversary has, and what it is asked.

    Raises:
      FileNotFoundError, ValueError: see the benchmark and `records`.
    """
    data = settings.data
    if settings.benchmark:
        benchmark = benchmarks.parse(settings.benchmark)
        target = benchmark.target(data.context, settings.seed)
    else:
        group = Group("relearn", "unlearn", data.relearn, data.held_out)
        target = target_of([group], data.context, settings.seed)
        asked_for = [record for probe in target.probes for record in probe.records]
        if both := overlap.find(asked_for, target.records):
            warnings.warn(
                f"{len(both)} texts that are asked are among those that the adversary "
                f"has, so it need not know them: {both[0]}. Take them out of one of the "
                "two, or of the file where it has them twice.",
                stacklevel=2,
            )
    probes = tuple(asked.with_metrics(target.probes, settings.metrics, data.chat))
    return dataclasses.replace(target, probes=probes)


def run(settings: AttackSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Returns:
      {"model", "reference_model", "shown": records that the adversary has, "verdict": see
      `verdict.verdict`, "attacks": of each one {"attack", "curve", "reference_curve":
      points {"steps", "tokens", "flops", "label", "groups": {group: {metric: {"value",
      "interval", "n", "reference"}}}}, the first before the attack and the last after it;
      "spent": {"steps", "tokens", "flops"}}}, and beside them those four of the first.

    Raises:
      FileNotFoundError, ValueError: bad data, options, or no such model.
    """
    chosen = attacks.parse_all(settings.attack)
    target = target_for(settings)
    print(f"{settings.attack} with {len(target.records)} records")
    named = (settings.model, settings.reference_model)
    sources = {name: benchmarks.model_source(name) for name in named if name}
    curves: dict[str, dict[str, list[Point]]] = {}
    how: Any = {"budget": settings.budget, "seed": settings.seed, "at": settings.steps}
    with devices.on_mesh(settings.mesh):
        tokenizers = {n: hf_weights.load_tokenizer(s) for n, s in sources.items()}
        for tokenizer in tokenizers.values():
            asked.check_chat(tokenizer, settings.data.chat, target.probes)
        for name, source in sources.items():
            with progress.phase(f"loading {name}"):
                model = devices.load_model(
                    source,
                    settings.compute,
                    ALL,
                    tokenizers[name],
                    settings.data.context,
                )
            shown = _shown(chosen, name)
            curves[name] = all_measured(shown, model, target, asked.measure, **how)
    own = curves[settings.model]
    never = curves.get(settings.reference_model, {spec: [] for spec in own})
    done = [
        {
            "attack": spec,
            "curve": curve,
            "reference_curve": never[spec],
            "spent": {key: curve[-1][key] for key in ("steps", "tokens", "flops")},
        }
        for spec, curve in own.items()
    ]
    results = {
        "model": settings.model,
        "reference_model": settings.reference_model,
        "shown": len(target.records),
        "verdict": verdict.verdict(
            {spec: Attacked(curve, never[spec]) for spec, curve in own.items()}
        ),
        "attacks": done,
        **done[0],
    }
    attack_report.write(directory, results, dataclasses.asdict(settings))
    return results


def _shown(chosen: dict[str, Attack], model: str) -> Iterable[tuple[str, Attack]]:
    """The attacks with a bar of those that are done."""
    title = f"attacks on {model}"
    return progress.Bar(chosen.items(), title=title, unit="attack")
