# SPDX-License-Identifier: Apache-2.0
"""The Pareto front of a run that has rules of when to stop: its points, and their models.

Points lie in front.jsonl, and the models of the front in front/step-N, in the Hugging Face
format and the dtype in which they train. What a resumed run has lost is measured again.
"""

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from jax_surgery.checkpoints import hf_weights
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed
from jax_surgery.storage import files
from jax_surgery.train import stop
from jax_surgery.train.loop import Callback, State
from jax_surgery.train.metrics_file import as_lines, read_metrics

POINTS = "front.jsonl"
Scores = dict[str, float]


class Front:
    """Notes a run's points, keeps the models of the front, and says when it ends."""

    def __init__(
        self,
        rules: stop.Stop,
        directory: str,
        roles: Mapping[str, str],
        references: Mapping[str, float],
        score: Callable[[Model], Scores],
    ):
        """
        Args:
          directory: of the run.
          roles: of each group; what has none is to be retained.
          references: of each group (see `Stop.references`).
          score: what a model knows of each group.
        """
        self._rules, self._folder = rules, epath.Path(directory)
        self._roles, self._references, self._score = roles, references, score
        # What was measured so far, by step; the same on all processes.
        self.points = read_metrics(self._folder / POINTS)

    @property
    def models(self) -> list[int]:
        """Steps whose models are kept."""
        names = files.names(self._folder / "front")
        return sorted(
            int(n.removeprefix("step-")) for n in names if n.startswith("step-")
        )

    def callback(self, every: int, model_of: Callable[[State], Model]) -> Callback:
        """Measures before steps 0, `every`, 2 `every`, ..."""

        def run(step: int, state: State) -> State:
            model = model_of(state)
            self.note(step, model, self._score(model))
            return state

        return Callback(every, run)

    def note(self, step: int, model: Model, scores: Scores) -> None:
        """Notes what a model was measured to know, and keeps it where it is on the front."""
        earlier = [point for point in self.points if point["step"] < step]
        before = None
        if earlier:
            prefix = "score_"
            of_first = earlier[0].items()
            before = {
                k.removeprefix(prefix): v for k, v in of_first if k.startswith(prefix)
            }
        point = stop.point(step, scores, self._roles, self._references, before)
        self.points = [*earlier, point]
        wanted = self._wanted()
        if step in wanted:
            hf_weights.save_model(
                model.params,
                model.config,
                str(self._folder / stop.folder_of(step)),
                tokenizer_source=model.source,
            )
        if distributed.is_lead():
            files.write_text(self._folder / POINTS, as_lines(self.points))
            for other in self.models:
                if other not in wanted:
                    files.remove(self._folder / stop.folder_of(other))

    def _wanted(self) -> set[int]:
        """Steps whose models are kept: of the front, and the one that would be chosen."""
        on_front = {point["step"] for point in stop.front(self.points)}
        order = [int(point["step"]) for point in stop.ranked(self._rules, self.points)]
        found = [
            step for place, step in enumerate(order) if step in on_front or not place
        ]
        return set(found[: self._rules.keep or None])

    def until(self, step: int, state: State, metrics: Any) -> bool:
        """Whether the run is over: asked after each step (see `loop.train`)."""
        del state, metrics
        # It is measured before a step, and seen after it.
        measured = bool(self.points) and self.points[-1]["step"] == step - 1
        return measured and self.ended

    @property
    def ended(self) -> bool:
        """Whether a rule has ended the run."""
        return bool(self.points) and bool(stop.why(self._rules, self.points[-1]))

    def finish(self, steps: int, model: Model, load: Callable[[str], Model]) -> Model:
        """The model of the chosen point; that of the last step is measured first where no
        rule has ended the run.

        Args:
          steps: of a run that was not ended.
          model: after the last step; given up where another is chosen.
          load: loads a kept model as one to train.
        """
        if not (ended := self.ended):
            self.note(steps, model, self._score(model))
        print(stop.verdict(self._rules, self.points))
        chosen = int(stop.ranked(self._rules, self.points)[0]["step"])
        if chosen == steps and not ended:
            return model
        params = load(str(self._folder / stop.folder_of(chosen))).params
        return model.with_params(params)

    def chosen(self) -> list[tuple[str, str]]:
        """What the report page says that the run chose, names and values."""
        found = self.found()
        steps = ", ".join(str(point["step"]) for point in found["front"])
        kept = ", ".join(map(stop.folder_of, self.models))
        return [
            ("point", found["why"]),
            ("Pareto front", f"steps {steps}; kept: {kept}"),
        ]

    def found(self) -> dict[str, Any]:
        """What results.json holds as "stop"."""
        return stop.described(self._rules, self.points, self.models)
