# SPDX-License-Identifier: Apache-2.0
"""What a model is asked to say by itself, before and after a run: questions of the
records, of a questions file, held-out ones, and everyday prompts.

A model is asked with the very tokens after which it learns an answer.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jax_surgery.data import general, prompts, same_fact, tokens
from jax_surgery.data.forms import QUESTION_PROMPT, Record
from jax_surgery.data.questions import Question
from jax_surgery.data.same_fact import is_short, plain

# Of a group; "everyday" has no right answer.
Kind = Literal["unlearn", "update", "retain", "everyday"]
# What groups of a questions file are about whose questions name no fact of the records.
NAMED: dict[str, Kind] = {"unlearn": "unlearn", "forget": "unlearn", "update": "update"}
ANSWER, EVERYDAY, LONG = 32, 48, 64  # tokens of a reply, at most
READ, SAID = 64, 32  # tokens of a text that are read, and that are to be said
LINKED = 4000  # retained questions that show which words tell nothing, at most
SHOWN = 200  # characters of a prompt
MEASURED = 7  # of the packaged passages every so many is measured
Pairs = Mapping[str, Sequence[tuple[str, str]]]


@dataclasses.dataclass(frozen=True)
class Asked:
    """One prompt.

    Attributes:
      group: e.g. "unlearn", "mine, unseen wordings", "everyday".
      kind: what the group is about.
      question: as it is shown.
      expected: what is right, of each record with this question; () of everyday prompts.
      tokens: of the prompt, up to the reply.
      limit: tokens of the reply, at most.
      fact: the same number as others that ask for the same fact.
      record: what it was made of.
      new: new answers that may be said here: those of the update set for this fact.
      own: whether what is expected is what the model itself said before the run, right or
        wrong.
    """

    group: str
    kind: Kind
    question: str
    expected: tuple[str, ...]
    tokens: tuple[int, ...]
    limit: int
    fact: int
    record: Record
    new: tuple[str, ...] = ()
    own: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The short ones of what is right, which a reply is searched for."""
        return tuple(answer for answer in self.expected if is_short(answer))


class _Found:
    """Prompts before they are linked: equal questions of a group are one."""

    def __init__(self):
        self.by_key: dict[tuple[str, str], dict[str, Any]] = {}

    def add(
        self,
        group: str,
        kind: Kind,
        question: str,
        expected: str,
        record: Record,
        own: bool = False,
    ) -> None:
        one = self.by_key.setdefault(
            (group, plain(question)),
            {"group": group, "kind": kind, "question": question, "record": record}
            | {"expected": [], "own": own},
        )
        if expected and expected not in one["expected"]:
            one["expected"].append(expected)


def measured_passages() -> list[Record]:
    """The packaged general text that is measured; nothing may train on it."""
    texts = enumerate(general.passages())
    return [
        Record("", text, (), f"general:{i + 1}")
        for i, text in texts
        if not i % MEASURED
    ]


def trained_passages() -> list[str]:
    """The packaged general text that may be trained on."""
    return [text for i, text in enumerate(general.passages()) if i % MEASURED]


def question_of(record: Record) -> str:
    """What is asked in a record, as it is shown; "" of a text."""
    if record.question:
        return record.question
    asked = [said for role, said in record.messages if role == "user"]
    return asked[-1] if asked else record.prompt.strip()


def _plainly(question: str, answer: str) -> Record:
    prompt = QUESTION_PROMPT.format(question=question)
    return Record(prompt, f" {answer}", (), question, question)


def gather(
    by_role: Mapping[str, Sequence[Record]],
    questions: Sequence[Question],
    held_out: Pairs,
    everyday: Sequence[str],
    tokenizer: Any,
    *,
    as_chat: bool,
    most: int,
    seed: int,
    own: Mapping[str, Sequence[Record]] | None = None,
    reworded: Mapping[Kind, Sequence[Record]] | None = None,
) -> list[Asked]:
    """All prompts of a run.

    Args:
      by_role: the records of unlearn, update and retain; texts without a prompt are
        asked for their continuation, but for those of retain.
      questions: of a questions file, asked without their options.
      held_out: by the name of a group questions and their answers, of which the run
        must change nothing and has trained on nothing.
      everyday: prompts without a right answer.
      as_chat: whether `questions` are asked in the tokenizer's chat template.
      most: prompts of a group; others are left out, drawn with the seed.
      seed: of what is drawn.
      own: as `held_out`, questions with the answers that the model itself wrote.
      reworded: by role, questions of its facts in other words, of which nothing is
        trained on.
    """
    rng, found = np.random.default_rng(seed), _Found()
    texts: list[Asked] = []
    for role in ("unlearn", "update", "retain"):
        records = list(by_role.get(role, ()))
        if role == "retain" and len(records) > LINKED:
            drawn = np.sort(rng.permutation(len(records))[:LINKED])
            records = [records[i] for i in drawn]
        # Long answers take long to say, and tell little of what is known: they are asked
        # for only where no retained answer is short.
        if role == "retain" and any(
            question_of(r) and is_short(r.said) for r in records
        ):
            named = {question_of(r) for r in records if is_short(r.said)}
            records = [r for r in records if question_of(r) in named]
        for record in records:
            if question := question_of(record):
                found.add(role, role, question, record.said.strip(), record)
        if role != "retain":
            plain_texts = [r for r in records if not question_of(r)]
            texts += _continued(plain_texts, role, tokenizer, most, rng)
    for q in questions:
        right = q.options[q.answer]
        record = prompts.ask(q.prompt, right, q.id, tokenizer, as_chat)
        group = f"{q.group}, {q.wording} wordings"
        found.add(group, "retain", q.prompt.strip(), right.strip(), record)
    for group, pairs in held_out.items():
        for question, answer in pairs:
            found.add(group, "retain", question, answer, _plainly(question, answer))
    for role, records in (reworded or {}).items():
        for record in records:
            question, said = question_of(record), record.said.strip()
            found.add(f"{role}, other wordings", role, question, said, record)
    for group, records in (own or {}).items():
        for record in records:
            if question := question_of(record):
                said = record.said.strip()
                found.add(group, "retain", question, said, record, own=True)
    for prompt in everyday:
        found.add("everyday", "everyday", prompt, "", _plainly(prompt, "."))
    asked_by_file: dict[str, Kind] = {
        f"{q.group}, {q.wording} wordings": NAMED.get(q.group, "retain")
        for q in questions
    }
    linked = _linked(list(found.by_key.values()), asked_by_file, tokenizer, most, rng)
    return linked + texts


def _linked(
    found: list[dict[str, Any]],
    asked_by_file: Mapping[str, Kind],
    tokenizer: Any,
    most: int,
    rng: np.random.Generator,
) -> list[Asked]:
    """The prompts that are asked, with their facts.

    Args:
      asked_by_file: the groups of a questions file, which get the kind of the fact that
        they ask for; where they ask for none of the records', the kind given here.
    """
    # Of few questions many share words that tell nothing; of these some hundred do not.
    others = [*general.prompts(), *general.everyday_prompts()]
    facts = same_fact.link(
        [*(one["question"] for one in found), *others],
        [*(one["expected"] for one in found), *([] for _ in others)],
    )[: len(found)]
    roles: dict[tuple[int, str], set[Kind]] = collections.defaultdict(set)
    by_answer: dict[tuple[Kind, str], set[int]] = collections.defaultdict(set)
    new: dict[int, dict[str, None]] = collections.defaultdict(dict)
    for one, fact in zip(found, facts, strict=True):
        if one["group"] not in ("unlearn", "update"):
            continue
        for answer in filter(is_short, one["expected"]):
            roles[fact, plain(answer)].add(one["group"])
            by_answer[one["group"], plain(answer)].add(fact)
            if one["group"] == "update":
                new[fact][answer] = None
    for one, fact in zip(found, facts, strict=True):
        if one["group"] in asked_by_file:
            right, named = plain(one["expected"][0]), asked_by_file[one["group"]]
            one["kind"] = min(roles[fact, right], default=named)
            # Its wording shares no word with any other; the answer is that of one fact.
            alone = by_answer[named, right]
            if not roles[fact, right] and len(alone) == 1:
                [fact] = alone
        one |= {"fact": fact, "new": tuple(new[fact])}
    groups: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for one in found:
        groups[one["group"]].append(one)
    chosen = [one for own in groups.values() for one in _drawn(own, most, rng)]
    encoded = tokens.encode_whole([one["record"] for one in chosen], tokenizer)
    return [
        Asked(
            **one | {"expected": tuple(one["expected"])},
            tokens=tuple(document.prompt.tolist()),
            limit=_limit(one),
        )
        for one, document in zip(chosen, encoded, strict=True)
    ]


def _limit(one: Mapping[str, Any]) -> int:
    if one["kind"] == "everyday":
        return EVERYDAY
    # A reply longer than the model's own answer comes to say more than that did.
    short = one["own"] or any(map(is_short, one["expected"]))
    return ANSWER if short else LONG


def _drawn(
    own: list[dict[str, Any]], most: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Some prompts of a group, of as many facts as there are."""
    if len(own) <= most:
        return own
    seen: collections.Counter[int] = collections.Counter()
    ranked = []
    for place in rng.permutation(len(own)):
        fact = own[place]["fact"]
        ranked.append((seen[fact], len(ranked), int(place)))
        seen[fact] += 1
    return [own[place] for place in sorted(p for *_, p in sorted(ranked)[:most])]


def _continued(
    records: Sequence[Record],
    role: Kind,
    tokenizer: Any,
    most: int,
    rng: np.random.Generator,
) -> list[Asked]:
    """Pieces of texts: some tokens to read, and those that follow to be said."""
    found = []
    for document in tokens.encode_whole(records, tokenizer):
        ids = document.tokens[document.tokens != tokenizer.eos_token_id].tolist()
        size = min(READ + SAID, len(ids))
        for start in range(0, max(1, len(ids) - size + 1), size):
            piece = ids[start : start + size]
            cut = max(len(piece) - SAID, len(piece) // 2)
            read, said = piece[:cut], tokenizer.decode(piece[cut:]).strip()
            if read and plain(said):
                shown = tokenizer.decode(read, skip_special_tokens=True)[-SHOWN:]
                where = (f"{role} text", role, shown, (said,), tuple(read))
                record = Record(shown, said, (), document.origin)
                fact = -1 - len(found)  # of its own
                found.append(Asked(*where, len(piece) - cut, fact, record))
    picks = np.sort(rng.permutation(len(found))[:most])
    return [found[i] for i in picks]
