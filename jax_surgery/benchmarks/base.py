# SPDX-License-Identifier: Apache-2.0
"""The interface of a benchmark: groups of text with roles, and probes about them."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from jax_surgery.data import records
from jax_surgery.data.forms import Record
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import read_questions
from jax_surgery.models.model import Model

# The metric of each scorer that a group may name.
SCORERS = {
    "accuracy": "answer_accuracy",
    "choice": "multiple_choice",
    "likelihood": "likelihood",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """What an adversary has of what was unlearned, and what it wants to know.

    Attributes:
      records: text that the adversary has, without the answers to the probes.
      probes: text or questions about the rest, which it has not seen.
      context: tokens a row.
      removed: all text that was unlearned, what is asked among it.
      related: reads text of the same kind or about the same subjects, without the answers.
      retained: reads text that the model was to retain.
      known: reads questions or text about what was retained, which the model still knows.
      reworded: what is asked in other words.
      before: gives the model before the unlearning; None where it is not at hand.
    """

    records: tuple[Record, ...]
    probes: tuple[Probe, ...]
    context: int
    removed: tuple[Record, ...] = ()
    related: Callable[[], tuple[Record, ...]] = tuple
    retained: Callable[[], tuple[Record, ...]] = tuple
    known: Callable[[], tuple[Probe, ...]] = tuple
    reworded: tuple[Probe, ...] = ()
    before: Callable[[], Model] | None = None


class Benchmark(abc.ABC):
    """A member of `BENCHMARKS` is a frozen dataclass whose fields are its options.

    Attributes:
      MODEL: directory of the model that knows the text (Hugging Face format); "" where
        the benchmark brings none.
    """

    MODEL: ClassVar[str] = ""

    @abc.abstractmethod
    def groups(self) -> tuple[Group, ...]:
        """The groups of text; no two roles share a record.

        Raises:
          FileNotFoundError, ValueError: the text is not there.
        """

    def probes(self, context: int) -> tuple[Probe, ...]:
        """The probes with their metrics; by default every group's own test.

        Args:
          context: tokens a row.
        """
        return tuple(group_probe(group, context) for group in self.groups())

    def target(self, context: int, seed: int) -> Target:
        """For attacks: by default half of each group's records, or its test set apart.

        Args:
          context: tokens a row.
          seed: chooses the halves.
        """
        return target_of(self.groups(), context, seed)


def group_probe(group: Group, context: int) -> Probe:
    """The probe that a group is scored on."""
    if group.scorer == "choice":
        questions = read_questions(group.test)
        return Probe(group.name, context, questions, metrics=(SCORERS["choice"],))
    read = records.read_role(group.test or group.data, group.name)
    return text_probe(group, read, context)


def text_probe(group: Group, read: Sequence[Record], context: int) -> Probe:
    """A probe of a group's records; the end of a text (eos) is not scored."""
    return Probe(
        group.name,
        context,
        records=tuple(read),
        metrics=(SCORERS[group.scorer],),
        known_chance=group.chance or None,
        ends=False,
    )


def target_of(groups: Sequence[Group], context: int, seed: int) -> Target:
    """What an adversary has of the groups to be unlearned, and what it is asked.

    Of a group whose `test` is other text than its `data` the adversary has the data and
    is asked the test; of others it has a half of the records, drawn with the seed, and
    is asked the rest. Questions of a group are asked as they are. Text of a group that is
    not unlearned is related where it is of the same family as one that is.

    Raises:
      ValueError: no group has the role unlearn, or one has a single record.
    """
    chosen = [group for group in groups if group.role == "unlearn"]
    if not chosen:
        raise ValueError(
            "no group has the role unlearn, so there is nothing to bring back; the "
            f"groups are {', '.join(g.name for g in groups) or 'none'}."
        )
    shown: list[Record] = []
    removed: list[Record] = []
    probes = []
    for group in chosen:
        read = records.read_role(group.data, group.name)
        removed += read
        if group.test not in ("", group.data):
            shown += read
            probes.append(group_probe(group, context))
            removed += probes[-1].records
            continue
        if len(read) < 2:
            raise ValueError(
                f"the group {group.name!r} has one record, of which no half can be held "
                "out; give it more, or a test set."
            )
        order = np.random.default_rng(seed).permutation(len(read))
        mixed, half = [read[i] for i in order], len(read) // 2
        shown += mixed[:half]
        probes.append(text_probe(group, mixed[half:], context))
    others = [group for group in groups if group.role != "unlearn"]
    families = {group.family for group in chosen} - {""}
    return Target(
        tuple(shown),
        tuple(probes),
        context,
        tuple(removed),
        related=lambda: _text([g for g in others if g.family in families]),
        retained=lambda: _text([g for g in others if g.role == "retain"]),
        known=lambda: tuple(
            text_probe(group, _text([group]), context)
            if group.test in ("", group.data)
            else group_probe(group, context)
            for group in others
            if group.role == "retain"
        ),
    )


def _text(groups: Sequence[Group]) -> tuple[Record, ...]:
    """All records of some groups."""
    read = (records.read_role(group.data, group.name) for group in groups)
    return tuple(record for own in read for record in own)
