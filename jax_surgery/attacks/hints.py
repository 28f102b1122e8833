# SPDX-License-Identifier: Apache-2.0
"""Hints: text about what was removed stands before what is asked.

In-context relearning (Shumailov et al. 2024, arXiv 2407.00106): a model that suppresses
an answer may say it again after other answers of the same kind. A model that never knew
learns from them how answers look, and not what the next one is.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jax_surgery.attacks.base import Target
from jax_surgery.attacks.prompting import rewritten
from jax_surgery.attacks.without_training import Variant, WithoutTraining
from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.models.model import Model

BETWEEN = "\n\n"


@dataclasses.dataclass(frozen=True)
class Hints(WithoutTraining):
    """Some of the adversary's records before each question or text.

    Attributes:
      shots: numbers of records, each tried by itself.
    """

    shots: tuple[int, ...] = (1, 4, 8)

    def __post_init__(self):
        if not self.shots or min(self.shots) < 1:
            given = "+".join(map(str, self.shots))
            raise ValueError(f"hints:shots={given} must be numbers of 1 or more.")

    def lacks(self, target: Target) -> str:
        """See `base.lacking`."""
        if max(self.shots) <= len(target.records):
            return ""
        return (
            f"hints:shots={max(self.shots)}: the adversary has {len(target.records)} "
            "records; ask for no more of them, or give it more."
        )

    def variants(self, model: Model, target: Target, seed: int) -> Iterator[Variant]:
        """See `WithoutTraining`."""
        if missing := self.lacks(target):
            raise ValueError(missing)
        order = np.random.default_rng(seed).permutation(len(target.records))
        for count in self.shots:
            shown = [target.records[i] for i in order[:count]]
            probes = tuple(_after(shown, probe, model) for probe in target.probes)
            label = f"after {count} of the removed texts"
            yield Variant(label, model, probes)


def _text(record: Record) -> str:
    """A record as plain text."""
    if record.messages:
        return "\n".join(said for _, said in record.messages)
    return f"{record.prompt}{record.answer}"


def _after(shown: list[Record], probe: Probe, model: Model) -> Probe:
    """The probe with records before everything that is asked, in longer rows."""
    before = "".join(f"{_text(record).strip()}{BETWEEN}" for record in shown)
    return rewritten(
        probe,
        model,
        lambda question: dataclasses.replace(question, prompt=before + question.prompt),
        lambda record: _record_after(before, record),
    )


def _record_after(before: str, record: Record) -> Record:
    if not record.messages:
        # Not as a bare question, which a chat template would put into a turn.
        return dataclasses.replace(record, prompt=before + record.prompt, question="")
    (role, said), *rest = record.messages
    return dataclasses.replace(record, messages=((role, before + said), *rest))
