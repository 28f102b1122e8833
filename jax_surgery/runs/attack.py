# SPDX-License-Identifier: Apache-2.0
"""Attacks a model from which something was removed, and a model that never knew it.

The run: check the data -> load the models -> attack each in the same ways, scored along
the way on the held-out text -> verdict, results.json, report. The report page is there
from the first attack on, and is written again after each.
"""

import dataclasses
import functools
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from etils import epath

from jax_surgery import attacks, benchmarks
from jax_surgery.attacks import Named
from jax_surgery.attacks.base import Attack, Budget, Target, lacking
from jax_surgery.attacks.curve import Point, all_measured
from jax_surgery.benchmarks.base import target_of, text_probe
from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import at_least, check_seed, names
from jax_surgery.data import overlap, records
from jax_surgery.data.groups import Group
from jax_surgery.data.prompts import AsChat
from jax_surgery.models.compute import Compute
from jax_surgery.models.model import Model
from jax_surgery.models.trainable import ALL
from jax_surgery.parallel import progress
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.report import attack as attack_report
from jax_surgery.report import page
from jax_surgery.report.live import Live
from jax_surgery.runs import asked, never_knew
from jax_surgery.runs.never_knew import TRAIN, NeverKnew
from jax_surgery.runs.own_attacks import summed_up
from jax_surgery.train import devices
from jax_surgery.train.workdir import CONFIG_FILE


@dataclasses.dataclass(frozen=True)
class AttackData:
    """The adversary's text and the held-out text, where no benchmark provides them.

    Attributes:
      relearn: sources of text that was removed, comma-separated.
      held_out: sources of what is asked; "" holds out half of `relearn`, drawn.
      reworded: sources of what is asked, in other words; "": those of the benchmark.
      related: sources of text of the same kind, without the answers; "": the same.
      retained: sources of text that the model was to retain; "": the same.
      chat: whether questions are asked in the model's chat template.
      context: tokens a row.
    """

    relearn: str
    held_out: str
    reworded: str
    related: str
    retained: str
    chat: AsChat
    context: int

    def __post_init__(self):
        at_least(2, self, "config.data", "context")


@dataclasses.dataclass(frozen=True)
class AttackSettings:
    """An attack (`run = "attack"`).

    Attributes:
      model: a finished run's workdir, a directory or hub name, or a benchmark's name.
      reference_model: the same, of a model that never knew; or results.json of an attack
        on it, or that run's workdir; "train" trains one; "" leaves it out.
      before: the same, of the model before the unlearning; "": of a finished run's workdir
        the model that it began with.
      attack: names in `attacks.ATTACKS`, with options, or in `attacks.SETS`; several with
        semicolons between.
      benchmark: its name in `benchmarks.BENCHMARKS`, with options; "" takes `data`.
      metrics: names in `metrics.METRICS`, comma-separated; "" takes the benchmark's.
      measure_at: steps after which the model is asked, comma-separated; it is asked
        before and after the attack in any case.
      never_knew: how a model is trained that never knew.
      budget: what may be spent; 0 sets no limit.
    """

    run: str
    model: str
    reference_model: str
    before: str
    attack: str
    benchmark: str
    metrics: str
    measure_at: str
    seed: int
    data: AttackData
    never_knew: NeverKnew
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
                f"{', '.join(attacks.ATTACKS)}, with semicolons between, or "
                f"{', '.join(attacks.SETS)}."
            )

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps after which the model is asked."""
        try:
            return tuple(int(text) for text in names(self.measure_at))
        except ValueError:
            raise ValueError(
                f"config.measure_at={self.measure_at!r} must be whole numbers, "
                "comma-separated, e.g. 5,20,80."
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
    target = _with_own(target, data)
    probes = tuple(asked.with_metrics(target.probes, settings.metrics, data.chat))
    reworded = tuple(asked.with_metrics(target.reworded, settings.metrics, data.chat))
    return dataclasses.replace(
        target,
        probes=probes,
        reworded=reworded,
        # Each is read once, when an attack needs it.
        related=functools.cache(target.related),
        retained=functools.cache(target.retained),
        known=functools.cache(
            lambda: tuple(asked.with_metrics(target.known(), "", data.chat))
        ),
    )


def _with_own(target: Target, data: AttackData) -> Target:
    """The target with the text that `data` names in the place of the benchmark's."""
    new: dict[str, Any] = {}
    if data.related:
        related = tuple(records.read_role(data.related, "related"))
        new["related"] = lambda: related
    if data.retained:
        retained = tuple(records.read_role(data.retained, "retained"))
        group = Group("retained", "retain", data.retained)
        probe = text_probe(group, retained, data.context)
        new |= {"retained": lambda: retained, "known": lambda: (probe,)}
    if data.reworded:
        first, *others = target.probes
        group = Group("reworded" if others else first.group, "unlearn", data.reworded)
        read = records.read_role(data.reworded, "reworded")
        new["reworded"] = (text_probe(group, read, data.context),)
    return dataclasses.replace(target, **new)


def source_before(settings: AttackSettings) -> str:
    """Where the model before the unlearning lies; "" where that is not known."""
    if settings.before:
        return benchmarks.model_source(settings.before)
    folder = epath.Path(settings.model)
    file = folder / CONFIG_FILE
    if benchmarks.model_source(settings.model) != str(folder / "model"):
        return ""  # no workdir
    if not file.exists():
        return ""
    began = json.loads(file.read_text()).get("model", "")
    source = benchmarks.model_source(began)
    return source if source and epath.Path(source).exists() else ""


def chosen_for(
    settings: AttackSettings, target: Target
) -> tuple[list[Named], list[str]]:
    """The attacks that are mounted, and a sentence on each that is left out of a set.

    Raises:
      ValueError: one that is named by itself lacks what it needs.
    """
    able, left_out = [], []
    for one in attacks.parse_all(settings.attack):
        missing = lacking(one.attack, target) or _alone(one.attack, settings)
        if missing and not one.optional:
            raise ValueError(f"config.attack={one.spec!r}: {missing}")
        if missing:
            left_out.append(f"Not tried: {missing}")
        else:
            able.append(one)
    if not able:
        raise ValueError(f"config.attack={settings.attack!r}: {' '.join(left_out)}")
    return able, list(dict.fromkeys(left_out))


def _alone(attack: Attack, settings: AttackSettings) -> str:
    """Why an attack tells nothing without a model that never knew; "" where it does."""
    if settings.reference_model or getattr(attack, "on", "") != "all":
        return ""
    return (
        "relearning:on=all teaches what is asked, which brings it back to any model: it "
        "needs one that never knew to compare with, config.reference_model."
    )


def run(settings: AttackSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Returns:
      {"model", "reference_model", "shown": records that the adversary has, "left_out":
      sentences on attacks that could not be tried, "verdict": see `verdict.verdict`,
      "excess": see `verdict.excesses`, "attacks": of each one {"attack", "family",
      "curve", "reference_curve": points {"steps", "tokens", "flops", "label", "groups":
      {group: {metric: {"value", "interval", "n", "reference"}}}}, the first before the
      attack and the last after it; "spent": {"steps", "tokens", "flops"}}}, and beside
      them those of the first.

    Raises:
      FileNotFoundError, ValueError: bad data, options, or no such model.
      TrainingDiverged, Interrupted: of a model that is trained; see `loop.train`.
    """
    target = target_for(settings)
    if before := source_before(settings):
        load = functools.partial(_loaded, before, settings)
        target = dataclasses.replace(target, before=functools.cache(load))
    chosen, left_out = chosen_for(settings, target)
    print(f"{settings.attack} with {len(target.records)} records")
    for sentence in left_out:
        print(sentence)
    own = Mounted(settings, directory, target, chosen, left_out)
    watched = Live(directory, own.shown("", {}, {}))
    with devices.on_mesh(settings.mesh), watched.until_finished():
        reference, never = own.of_never_knew()
        results = own.of_model(reference, never, watched)
    attack_report.write(directory, results, dataclasses.asdict(settings))
    return results


def _loaded(source: str, settings: AttackSettings) -> Model:
    """A model that attacks may train, on the mesh that is set."""
    return devices.load_model(
        source, settings.compute, ALL, context=settings.data.context
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Mounted:
    """The attacks of a run, on one model after the other."""

    settings: AttackSettings
    directory: str
    target: Target
    attacks: Sequence[Named]
    left_out: list[str]

    def of_never_knew(self) -> tuple[str, dict[str, list[Point]]]:
        """The model that never knew and its curves by attack; ("", {}) without one.

        Raises:
          ValueError: see `never_knew.curves_of` and `never_knew.trained`.
        """
        settings, name = self.settings, self.settings.reference_model
        # Raises before anything takes long.
        attacked = benchmarks.model_source(settings.model)
        tokenizer = hf_weights.load_tokenizer(attacked)
        asked.check_chat(tokenizer, settings.data.chat, self.target.probes)
        if not name:
            return "", {}
        if log := never_knew.log_of(name):
            specs = [one.spec for one in self.attacks]
            return never_knew.curves_of(log, dataclasses.asdict(settings), specs)
        if name != TRAIN:
            return name, self._curves(name, benchmarks.model_source(name))
        config = hf_weights.load_config(attacked)
        like = Model(None, config, tokenizer, settings.compute)
        data, seed = settings.data, settings.seed
        trained = never_knew.trained(
            settings.never_knew,
            like,
            self.target.retained(),
            data.context,
            seed,
            self.directory,
        )
        return trained, self._curves("a model that never knew", trained)

    def of_model(
        self, reference: str, never: dict[str, list[Point]], watched: Live
    ) -> dict[str, Any]:
        """What results.json holds.

        Args:
          reference, never: see `of_never_knew`.
          watched: is written after each attack.
        """
        curves: dict[str, list[Point]] = {}

        def after(spec: str, points: list[Point]) -> None:
            curves[spec] = points
            if len(curves) < len(self.attacks):
                shown = self.shown(reference, curves, never)
                watched.write(f"after the attack {spec}", shown)

        source = benchmarks.model_source(self.settings.model)
        self._curves(self.settings.model, source, after)
        return self._results(reference, curves, never)

    def shown(
        self,
        reference: str,
        curves: dict[str, list[Point]],
        never: dict[str, list[Point]],
    ) -> page.Page:
        """The page of what is known so far; see `_results`."""
        results = self._results(reference, curves, never)
        return attack_report.shown(results, dataclasses.asdict(self.settings))

    def _results(
        self,
        reference: str,
        curves: dict[str, list[Point]],
        never: dict[str, list[Point]],
    ) -> dict[str, Any]:
        found = summed_up(self.attacks, curves, never)
        for entry in found["attacks"]:
            last = entry["curve"][-1]
            entry["spent"] = {key: last[key] for key in ("steps", "tokens", "flops")}
        return {
            "model": self.settings.model,
            "reference_model": reference,
            "shown": len(self.target.records),
            "left_out": self.left_out,
            **found,
            **(found["attacks"][0] if found["attacks"] else {}),
        }

    def _curves(
        self,
        name: str,
        source: str,
        after: Callable[[str, list[Point]], object] = lambda spec, points: None,
    ) -> dict[str, list[Point]]:
        """Attacks a model in all ways."""
        settings = self.settings
        tokenizer = hf_weights.load_tokenizer(source)
        asked.check_chat(tokenizer, settings.data.chat, self.target.probes)
        with progress.phase(f"loading {name}"):
            model = _loaded(source, settings)
        return all_measured(
            _shown(self.attacks, name),
            model,
            self.target,
            asked.measure,
            after,
            budget=settings.budget,
            seed=settings.seed,
            at=settings.steps,
        )


def _shown(chosen: Sequence[Named], model: str) -> Iterable[tuple[str, Attack]]:
    """The attacks with a bar of those that are done."""
    pairs = [(one.spec, one.attack) for one in chosen]
    return progress.Bar(pairs, title=f"attacks on {model}", unit="attack")
