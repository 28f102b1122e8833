# SPDX-License-Identifier: Apache-2.0
"""The interface of a benchmark: groups of text with roles, and probes about them."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from jax_surgery.data import records
from jax_surgery.data.forms import Record
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import read_questions

# The metric of each scorer that a group may name.
SCORERS = {
    "accuracy": "answer_accuracy",
    "choice": "multiple_choice",
    "likelihood": "likelihood",
}


@dataclasses.dataclass(frozen=True)
class Halves:
    """A part of what is to be unlearned, and probes of the rest.

    Attributes:
      shown: records that do not contain the answers to the probes.
      probes: questions about the other part.
    """

    shown: tuple[Record, ...]
    probes: tuple[Probe, ...]


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

    def halves(self, context: int, seed: int) -> Halves:
        """For attacks: by default half of each group's records, or its test set apart.

        Args:
          context: tokens a row.
          seed: chooses the halves.
        """
        return halves_of(self.groups(), context, seed)


def group_probe(group: Group, context: int) -> Probe:
    """The probe that a group is scored on."""
    metrics = (SCORERS[group.scorer],)
    if group.scorer == "choice":
        questions = tuple(read_questions(group.test))
        return Probe(group.name, context, questions, metrics=metrics)
    read = tuple(records.read_role(group.test or group.data, group.name))
    return text_probe(group, read, context, metrics)


def text_probe(
    group: Group, read: Sequence[Record], context: int, metrics: tuple[str, ...]
) -> Probe:
    """A probe of records; the end of a text (eos) is not scored."""
    return Probe(
        group.name,
        context,
        records=tuple(read),
        metrics=metrics,
        known_chance=group.chance or None,
        ends=False,
    )


def halves_of(groups: Sequence[Group], context: int, seed: int) -> Halves:
    """Halves of the groups to be unlearned.

    A group whose `test` is other text than its `data` shows its data and is asked its
    test; of others a half of the records, drawn with the seed, is shown and the rest is
    asked. Questions of a group are asked as they are.

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
    probes = []
    for group in chosen:
        read = records.read_role(group.data, group.name)
        metrics = (SCORERS[group.scorer],)
        if group.test and group.test != group.data:
            shown += read
            probes.append(group_probe(group, context))
            continue
        if len(read) < 2:
            raise ValueError(
                f"the group {group.name!r} has one record, of which no half can be held "
                "out; give it more, or a test set."
            )
        order = np.random.default_rng(seed).permutation(len(read))
        half = len(read) // 2
        shown += [read[i] for i in order[:half]]
        held = [read[i] for i in order[half:]]
        probes.append(text_probe(group, held, context, metrics))
    return Halves(tuple(shown), tuple(probes))
