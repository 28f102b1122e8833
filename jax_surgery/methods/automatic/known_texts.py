# SPDX-License-Identifier: Apache-2.0
"""The texts to unlearn: which of their tokens carry knowledge, and what becomes of the rest."""

import dataclasses
from collections.abc import Collection

import numpy as np

from jax_surgery.data.roles import RoleRecords
from jax_surgery.data.tokens import Document, encode
from jax_surgery.methods.automatic import completed, never_knew, subjects
from jax_surgery.methods.never_knew import NeverKnew
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """The texts to unlearn, and what their tokens carry.

    Attributes:
      documents: whole, of the records to unlearn and the model's own answers.
      targets: of their tokens laid end to end.
      asked: what the record of each origin asks, where it asks something.
    """

    documents: list[Document]
    targets: never_knew.Targets
    asked: dict[str, str]

    def _parts(self) -> list[np.ndarray]:
        """Which tokens carry knowledge, by document."""
        lengths = [len(document.tokens) for document in self.documents]
        return np.split(self.targets.carries, np.cumsum(lengths)[:-1])

    def to_unlearn(self) -> tuple[list[Document], never_knew.TokenEnds]:
        """Documents of which knowledge alone is learned, those without any left out;
        and where each of their tokens ends, laid end to end.

        Raises:
          ValueError: no token carries knowledge.
        """
        found, kept = [], []
        for document, carries in zip(self.documents, self._parts(), strict=True):
            kept.append(np.full(len(carries), carries[1:].any()))
            if carries[1:].any():
                found.append(dataclasses.replace(document, learned=carries))
        if not found:
            raise ValueError(
                "config.data.unlearn: no token of it carries knowledge that the model "
                "has: it says the same where it does not see what the text is about. "
                "There is nothing to unlearn, or the model does not know this text."
            )
        of = self.targets
        likelier = never_knew.among_drawn(of.likelier, of.carries)
        ends = never_knew.TokenEnds(of.target_log_odds, of.drawn, likelier)
        return found, ends.at(np.concatenate(kept))

    def to_retain(self, updated: Collection[str]) -> list[Document]:
        """Documents of which all is learned that carries no knowledge.

        Args:
          updated: questions that get a new answer: how the old one began is not
            retained, since the new one may begin in another way.
        """
        found = []
        for document, carries in zip(self.documents, self._parts(), strict=True):
            if self.asked.get(document.origin) in updated:
                continue
            rest = document.learned & ~carries
            if rest[1:].any():
                found.append(dataclasses.replace(document, learned=rest))
        return found


def measure(
    model: Model,
    records: RoleRecords,
    written: completed.Completed,
    settings: SurgerySettings,
) -> Known:
    """What is to be unlearned, measured on the model before it is changed.

    Args:
      records: by role.
      written: by the model.
      settings: of one stage, whose method is `NeverKnew`.
    """
    [stage] = settings.stages
    assert isinstance(stage.method, NeverKnew), "the settings refuse another one"
    rows = [*records.by_role["unlearn"], *written.own]
    others = [*records.retained, *written.neighbours]
    documents = encode(rows, model.tokenizer, settings.data.context)
    answers = subjects.shortest_answers(records.by_role["unlearn"])
    marks = subjects.mark(rows, others, model.tokenizer, answers)
    targets = never_knew.measure(
        model, rows, others, documents, marks, stage.method, settings.seed
    )
    asked = {r.origin: q for r in rows if (q := subjects.question_of(r))}
    return Known(documents, targets, asked)
