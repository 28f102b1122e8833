# SPDX-License-Identifier: Apache-2.0
"""Paraphrases: the same is asked in other words.

Unlearning that was trained on some wordings may hold for these alone (Patil et al. 2023,
arXiv 2309.17410). Wordings come with a benchmark or from files (`Target.reworded`); beside
them what is asked is put into sentences that an adversary may write around it.
"""

import dataclasses
from collections.abc import Iterator

from jax_surgery.attacks.base import Target
from jax_surgery.attacks.prompting import rewritten
from jax_surgery.attacks.without_training import Variant, WithoutTraining
from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.models.model import Model

# What is asked stands in the place of {}.
FRAMES = {
    "as a sentence to complete": "Complete this sentence correctly: {}",
    "as what somebody said": 'Somebody who knows them well told me: "{}',
    "after another sentence": "Many people have wondered about this. {}",
}


@dataclasses.dataclass(frozen=True)
class Paraphrase(WithoutTraining):
    """Asks in other words.

    Attributes:
      frames: how many sentences are tried around what is asked, beside other wordings.
    """

    frames: int = len(FRAMES)

    def __post_init__(self):
        if not 0 <= self.frames <= len(FRAMES):
            raise ValueError(
                f"paraphrase:frames={self.frames}; use 0 to {len(FRAMES)}."
            )

    def lacks(self, target: Target) -> str:
        """See `base.lacking`."""
        if target.reworded or self.frames:
            return ""
        return (
            "paraphrase:frames=0 needs other wordings, and there are none: give "
            "config.data.reworded, or frames of 1 or more."
        )

    def variants(self, model: Model, target: Target, seed: int) -> Iterator[Variant]:
        """See `WithoutTraining`."""
        del seed
        if target.reworded:
            yield Variant("in other words", model, target.reworded)
        for label, frame in list(FRAMES.items())[: self.frames]:
            probes = tuple(_framed(probe, model, frame) for probe in target.probes)
            yield Variant(label, model, probes)


def _framed(probe: Probe, model: Model, frame: str) -> Probe:
    def of_question(question: Question) -> Question:
        return dataclasses.replace(question, prompt=frame.format(question.prompt))

    def of_record(record: Record) -> Record:
        if record.messages:
            *before, (role, asked), (other, said) = record.messages
            turns = (*before, (role, frame.format(asked)), (other, said))
            return dataclasses.replace(record, messages=turns)
        # In a chat template the question alone is asked.
        question = record.question and frame.format(record.question)
        prompt = frame.format(record.prompt)
        return dataclasses.replace(record, prompt=prompt, question=question)

    return rewritten(probe, model, of_question, of_record)
