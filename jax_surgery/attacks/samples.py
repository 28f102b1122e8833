# SPDX-License-Identifier: Apache-2.0
"""Samples: many answers are drawn, and the removed one is looked for among them.

Greedy decoding shows one answer alone. An adversary who may ask again and again needs the
removed answer to be likely enough once, see `metrics.any_of_samples`.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jax_surgery.attacks.base import Target
from jax_surgery.attacks.without_training import Variant, WithoutTraining
from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.models.model import Model

METRIC = "any_of_samples"


@dataclasses.dataclass(frozen=True)
class Samples(WithoutTraining):
    """Draws several answers to each prompt.

    Attributes:
      answers: numbers of answers, each tried by itself.
      prompts: of a group, at most, drawn.
    """

    answers: tuple[int, ...] = (10,)
    prompts: int = 256

    def __post_init__(self):
        if not self.answers or min(self.answers) < 1 or self.prompts < 1:
            given = "+".join(map(str, self.answers))
            raise ValueError(
                f"samples:answers={given},prompts={self.prompts} must be numbers of 1 or "
                "more."
            )

    def lacks(self, target: Target) -> str:
        """See `base.lacking`."""
        if any(_has_prompts(probe) for probe in target.probes):
            return ""
        return (
            "samples needs prompts, and what is asked has none: give questions, or "
            "records with a prompt and an answer."
        )

    def variants(self, model: Model, target: Target, seed: int) -> Iterator[Variant]:
        """See `WithoutTraining`."""
        if missing := self.lacks(target):
            raise ValueError(missing)
        chosen = [
            self._drawn(probe, seed) for probe in target.probes if _has_prompts(probe)
        ]
        for count in self.answers:
            probes = tuple(
                dataclasses.replace(probe, samples=count, metrics=(METRIC,))
                for probe in chosen
            )
            yield Variant(f"any of {count} samples", model, probes)

    def _drawn(self, probe: Probe, seed: int) -> Probe:
        """Some of the prompts of a probe."""
        questions, rng = probe.questions, np.random.default_rng(seed)
        records = tuple(record for record in probe.records if _has_prompt(record))
        picks = sorted(rng.permutation(len(questions or records))[: self.prompts])
        if questions:
            some = tuple(questions[i] for i in picks)
            return dataclasses.replace(probe, questions=some)
        some = tuple(records[i] for i in picks)
        return dataclasses.replace(probe, records=some, documents=())


def _has_prompt(record: Record) -> bool:
    return bool(record.prompt or record.question or record.messages)


def _has_prompts(probe: Probe) -> bool:
    return bool(probe.questions or any(map(_has_prompt, probe.records)))
