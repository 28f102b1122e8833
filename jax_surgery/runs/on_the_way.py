# SPDX-License-Identifier: Apache-2.0
"""What a run on texts by role asks between steps: its curve, and the rules of when to stop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.metrics import multiple_choice, text
from jax_surgery.models.model import Model
from jax_surgery.runs import asked
from jax_surgery.train import curve, devices
from jax_surgery.train.front import Front
from jax_surgery.train.loop import Callback, State, Until


class OnTheWay:
    """Asks some of the questions during a run, and stops it by the rules of `config.stop`.

    Attributes:
      front: of a run that has such rules, once it has begun.
    """

    def __init__(
        self,
        settings: SurgerySettings,
        questions: Sequence[Question],
        group_roles: Mapping[str, str],
    ):
        """Reads the references of the rules.

        Raises:
          FileNotFoundError, ValueError: see `Stop.references`, or nothing is asked.
        """
        self._settings, self._roles = settings, dict(group_roles)
        self._few = multiple_choice.subsample(
            questions, settings.loop.evaluate_questions
        )
        self._references = self._read_references()
        self._packers: Mapping[str, Packer] = {}
        self.front: Front | None = None

    def _read_references(self) -> dict[str, float]:
        rules = self._settings.stop
        if not self._few and rules.reference == "chance":
            raise ValueError(
                "config.stop.reference='chance' is of questions, and config.data.questions "
                "is empty; give questions, or a score: without questions it is the share "
                "of the texts' tokens that the model finds the most likely ones."
            )
        if not self._few:
            return rules.references({"unlearn": 0.0})
        groups = dict.fromkeys(q.group for q in self._few)
        unlearned = [g for g in groups if self._roles.get(g) == "unlearn"]
        if rules.reference and not unlearned:
            raise ValueError(
                f"config.stop.reference={rules.reference!r}: no question is about what is "
                f"to be unlearned; groups are {', '.join(groups)}."
            )
        of = {g: tuple(q for q in self._few if q.group == g) for g in unlearned}
        chances = {g: Probe("", 0, own).chance or 0.0 for g, own in of.items()}
        return rules.references(chances)

    def begin(self, directory: str, packers: Mapping[str, Packer]) -> Until | None:
        """Begins the front of a run that has rules, and gives what ends the run.

        Args:
          packers: by role, of what is asked where there are no questions.
        """
        self._packers = packers
        if not self._settings.stop.is_used:
            return None
        roles = self._roles if self._few else {role: role for role in packers}
        how = (directory, roles, self._references, self._scores)
        self.front = Front(self._settings.stop, *how)
        return self.front.until

    def callbacks(
        self, model_of: Callable[[State], Model], directory: str
    ) -> list[Callback]:
        """What is called between steps."""
        front, every = self.front, self._settings.loop.evaluate_every
        if not self._few:
            return [front.callback(every, model_of)] if front else []

        def note(step: int, state: State, scores: dict[str, float]) -> None:
            if front:
                front.note(step, model_of(state), scores)

        ask = lambda state: self._accuracies(model_of(state))
        return curve.watch(ask, every, directory, note)

    def finish(self, model: Model) -> Model:
        """The model that is exported, of the model after the last step."""
        if not self.front:
            return model
        settings, tokenizer = self._settings, model.tokenizer
        how = (settings.compute, settings.moving(model.config), tokenizer)
        load = lambda folder: devices.load_model(folder, *how, settings.data.context)
        return self.front.finish(settings.steps, model, load)

    def _accuracies(self, model: Model) -> dict[str, Any]:
        data = self._settings.data
        return asked.accuracies(model, self._few, data.context, data.chat)

    def _scores(self, model: Model) -> dict[str, float]:
        """By group the share of right answers; without questions, by role the share of
        tokens that the model finds the most likely ones."""
        if self._few:
            found = self._accuracies(model)
            return {group: entry["accuracy"] for group, entry in found.items()}
        packers = self._packers.items()
        return {
            role: text.known(model, packer)["memorised"] for role, packer in packers
        }
