# SPDX-License-Identifier: Apache-2.0
"""Tasks of a model that speaks for itself: what it retains beside the user's tasks, and
which tokens of the targets carry knowledge.

Tasks that a user writes down are few, and their answers are short. A chat model answers in
sentences, and knows much more than the retained tasks name. So the model writes its own
answers to the targets' questions, and text to retain (`automatic.completion`); of the
targets those tokens alone are removed that carry knowledge, each until it is as likely as a
model finds it that never knew (`automatic.never_knew`).
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_surgery.benchmarks.tasks import GroupText, of_documents
from jax_surgery.data.forms import Record
from jax_surgery.data.groups import Group
from jax_surgery.data.roles import RoleRecords
from jax_surgery.data.tokens import Document, encode
from jax_surgery.methods.automatic import (
    beginnings,
    completed,
    completion,
    held_out,
    never_knew,
    shown_tokens,
    subjects,
)
from jax_surgery.methods.never_knew import NeverKnew
from jax_surgery.methods.subspace.work import Work

WRITTEN = "written: "  # before the names of groups that the model wrote
NEIGHBOURS = f"{WRITTEN}neighbours"
REST = f"{WRITTEN}rest of the targets"


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What stages work on, and what of it a report shows.

    Attributes:
      work: the targets' tokens that carry knowledge with their ends, and with the groups
        that the model wrote among the retained ones.
      held_out: of what the model wrote the records that are not trained on, by kind.
      marked: tokens of some targets' texts with the nats of knowledge that they carry, as
        `report.page.Page` shows them.
      found: what results.json holds of it.
    """

    work: Work
    held_out: dict[str, list[Record]]
    marked: list[Any]
    found: dict[str, Any]


def measure(work: Work, targets: Sequence[str], directory: str) -> Measured:
    """Lets the model write, and measures which tokens of the targets carry knowledge.

    Every process must call.

    Args:
      work: the user's tasks, and the model before the run.
      targets: to be removed.
      directory: of the run, where what the model writes is kept.

    Raises:
      ValueError: no token of a target carries knowledge; see `tokens.encode`.
    """
    of = lambda names: [r for name in names for r in work.texts[name].records]
    retained = of(name for name in work.texts if name not in targets)
    records = RoleRecords({"unlearn": of(targets), "retain": retained}, retained)
    model, seed = work.model, work.how.seed
    how = completion.Completion()
    written = completion.complete(model, records, how, seed, directory)
    texts, rest, marked = _targets(work, targets, written, retained)
    kinds = {k: rows for k, rows in written.retained().items() if rows}
    train_on, held = held_out.split(kinds, seed) if kinds else ({}, {})
    context = work.how.tasks.context
    with warnings.catch_warnings():
        # Packaged passages are split where they are longer: it is no text of the user's.
        warnings.simplefilter("ignore")
        groups = {
            f"{WRITTEN}{kind}": encode(rows, model.tokenizer, context)
            for kind, rows in train_on.items()
            if rows
        }
    groups |= {REST: rest} if rest else {}
    own = {name: _group(name, rows, context) for name, rows in groups.items()}
    whole = {**work.texts, **texts, **own}
    found = {
        "written": {kind: len(rows) for kind, rows in written.by_kind().items()},
        "knowledge_tokens": {
            name: int(sum(d.learned.sum() for d in text.documents))
            for name, text in texts.items()
        },
    }
    print(_told(found, held))
    everything = [d for text in whole.values() for d in text.documents]
    measured = dataclasses.replace(
        work,
        texts=whole,
        written=tuple(own),
        beginning=beginnings.shared(model, everything, context),
    )
    return Measured(measured, held, marked, found)


def _group(name: str, documents: Sequence[Document], context: int) -> GroupText:
    return of_documents(Group(name, "retain", ""), documents, context)


def _targets(
    work: Work,
    targets: Sequence[str],
    written: completed.Completed,
    retained: Sequence[Record],
) -> tuple[dict[str, GroupText], list[Document], list[Any]]:
    """(the targets' texts with the tokens that carry knowledge alone and their ends,
    what of these texts carries none, what a report shows)."""
    model, seed = work.model, work.how.seed
    asks = {
        subjects.question_of(record): name
        for name in targets
        for record in work.texts[name].records
    }
    rows = [record for name in targets for record in work.texts[name].records]
    answers = subjects.shortest_answers(rows)
    owner = [name for name in targets for _ in work.texts[name].records]
    for record in written.own:
        rows.append(record)
        owner.append(asks.get(subjects.question_of(record), targets[0]))
    documents = encode(rows, model.tokenizer, work.how.tasks.context)
    others = [*retained, *written.neighbours]
    marks = subjects.mark(rows, others, model.tokenizer, answers)
    of = (rows, others, documents, marks)
    found = never_knew.measure(model, *of, NeverKnew(), seed)
    of_origin = {r.origin: name for r, name in zip(rows, owner, strict=True)}
    starts = np.cumsum([len(d.tokens) for d in documents])[:-1]
    parts = [np.split(of, starts) for of in (found.carries, found.target_log_odds)]
    chosen: dict[str, list[tuple[Document, np.ndarray]]] = {n: [] for n in targets}
    rest = []
    for document, carries, ends in zip(documents, *parts, strict=True):
        if carries[1:].any():
            only = dataclasses.replace(document, learned=carries)
            chosen[of_origin[document.origin]].append((only, ends))
        if (other := document.learned & ~carries)[1:].any():
            rest.append(dataclasses.replace(document, learned=other))
    texts = {}
    for name, pairs in chosen.items():
        if not pairs:
            raise ValueError(
                f"config.tasks.targets: no token of {name!r} carries knowledge that the "
                "model has: it says the same where it does not see what the text is "
                "about. Use config.tasks.complete=never to remove the text as it is."
            )
        own, ends = zip(*pairs, strict=True)
        texts[name] = dataclasses.replace(
            work.texts[name], documents=tuple(own), ends=tuple(ends)
        )
    asked = {r.origin: q for r in rows if (q := subjects.question_of(r))}
    marked = shown_tokens.marked(model.tokenizer, documents, found, asked)
    return texts, rest, marked


def _told(found: dict[str, Any], held: Mapping[str, Sequence[Record]]) -> str:
    """What a run begins with, in a line."""
    wrote = ", ".join(f"{n} of {kind}" for kind, n in found["written"].items() if n)
    tokens = ", ".join(f"{n} of {k!r}" for k, n in found["knowledge_tokens"].items())
    out = ", ".join(f"{len(rows)} of {kind}" for kind, rows in held.items())
    return (
        f"the model wrote {wrote or 'nothing'}; tokens that carry knowledge: {tokens}; "
        f"held out: {out or 'nothing'}"
    )
