# SPDX-License-Identifier: Apache-2.0
"""Neighbours of what is forgotten: the same questions about other subjects.

The model writes them after a list of the job's own questions: as a further line of the
list, or with the words of a question up to its subject as the line's beginning. These are
what a change of a fact spreads to first, and what a user's retained text rarely names.
"""

import collections
import re
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from jax_surgery.data.forms import Record, normalised
from jax_surgery.methods.automatic import facts as fact_words
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked
from jax_surgery.methods.automatic.writer import Writer
from jax_surgery.metrics.base import Probe
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.model import Model

T = TypeVar("T")
SHOTS = 4  # questions of a list that the model goes on with
FREE = 1 / 3  # share of the questions that begin with no words of the job's own
LINE_TOKENS = 20  # of what the model writes of a question
LEAST, MOST = 8, 120  # characters of a question
ROUNDS = 4  # of writing, at most, until there are enough
WRITTEN_FOR_ONE = 1.8  # questions that are written for one that is wanted
# Of lists of questions. Hotter ones ask for more that nobody has heard of.
TEMPERATURE, TOP_P = 0.8, 0.9
ODD = frozenset("*#<>|{}[]\\`_")  # characters of no plain question
LABEL = "Question: "
# Share of the answered questions that is retained: those whose answers are likeliest. A
# model answers any question, and retained text is to hold what it knows.
KNOWN = 0.75
CONTEXT = 256  # tokens of a row in which answers are scored


class Stem(NamedTuple):
    """A question without its subject.

    Attributes:
      asked: the question that it is of.
      start: its words before the subject; "" for a line of the model's own.
      end: what follows the subject in a question without a question mark; "" else.
    """

    asked: Asked
    start: str
    end: str = ""

    def whole(self, written: str) -> str:
        """The question that begins with the stem and goes on as the model wrote.

        It ends with its question mark; one without ends as the stem's does. "" where
        what was written has no such end.
        """
        line = (self.start + written.split("\n")[0]).strip()
        if self.asked.question.endswith("?"):
            head, mark, _ = line.partition("?")
            return head + mark if mark else ""
        if not self.end:
            return line
        place = line.find(f" {self.end}", len(self.start) + 1)
        return line[: place + 1 + len(self.end)] if place > 0 else ""


def stem(asked: Asked, facts: Facts) -> Stem | None:
    """The question up to its subject; None where its subject is not found or is what it
    begins with."""
    question = asked.question
    subject = facts.of(question).subject
    own = [w for w in fact_words.words(question) if w.key in subject]
    # "planet" stands twice in "Which planet is known as the Red Planet?".
    found = [w for w in own if w.name] or own
    if not found:
        return None
    start = question[: found[0].start].rstrip(" '\"“‘«(")
    end = question[found[-1].stop :].lstrip("'’s\"”»),.").strip()
    return Stem(asked, start, end) if start else None


def lists(
    stems: Sequence[Stem], others: Sequence[Stem], rng: np.random.Generator
) -> list[str]:
    """For each stem a list of questions, whose last line begins as the stem does.

    The last whole line is the stem's own question, after some that begin in the same way
    and some that do not.
    """
    found = []
    for one in stems:
        own = one.asked.question
        rest = [o for o in others if o.asked.question != own]
        same = [o for o in rest if one.start and o.start == one.start]
        mixed = _some(same, SHOTS // 2, rng)
        mixed += _some([o for o in rest if o not in mixed], SHOTS - 1 - len(mixed), rng)
        lines = [mixed[i].asked.question for i in rng.permutation(len(mixed))]
        text = "".join(f"{LABEL}{line}\n" for line in (*lines, own))
        found.append(f"{text}{LABEL}{one.start}".rstrip())
    return found


def _some(stems: Sequence[Stem], count: int, rng: np.random.Generator) -> list[Stem]:
    return [stems[i] for i in rng.permutation(len(stems))[: max(0, count)]]


def usable(question: str, facts: Facts) -> bool:
    """Whether a question can be a neighbour: of a usual length, in one line, and it names
    nothing that is forgotten or updated."""
    return proper(question) and not facts.named(question)


def proper(question: str) -> bool:
    """Whether a question is of a usual length, in one line, and does not repeat itself."""
    fitting = LEAST <= len(question) <= MOST and LABEL.strip() not in question
    fitting = fitting and not ODD.intersection(question)
    return fitting and not fact_words.runs_on(question, times=2)


def questions(
    writer: Writer,
    asked: Sequence[Asked],
    facts: Facts,
    known: Sequence[str],
    count: int,
) -> list[tuple[Asked, str]]:
    """Questions that the model writes, each with one of the job's that it is modelled on.

    Args:
      asked: the job's questions, each once.
      known: questions that are retained already.
      count: of questions that are wanted; fewer come where the model repeats itself.
    """
    rng = writer.rng("neighbours")
    forced = [s for one in asked if (s := stem(one, facts))]
    free = [Stem(one, "") for one in asked if one.question.endswith("?")]
    seen = {_plain(q) for q in (*known, *(one.question for one in asked))}
    found: list[tuple[Asked, str]] = []
    for number in range(ROUNDS):
        missing = count - len(found)
        if missing <= 0 or not (forced or free):
            break
        wanted = missing * WRITTEN_FOR_ONE
        share = (FREE if forced else 1.0) if free else 0.0
        before = len(found)
        for kind, stems, part in (
            ("forced", forced, wanted * (1 - share)),
            ("free", free, wanted * share),
        ):
            stage = f"{kind} neighbours {number}"
            for one, question in _written(writer, stems, free, part, stage, rng):
                if _plain(question) in seen or not usable(question, facts):
                    continue
                seen.add(_plain(question))
                found.append((one.asked, question))
        if len(found) - before < missing / 10:
            break
    order = [found[i] for i in rng.permutation(len(found))]
    return of_each([(_fact(one, facts), (one, q)) for one, q in order], count)


def _fact(asked: Asked, facts: Facts) -> tuple[str, ...]:
    """What tells the fact of one of the job's questions from the others."""
    return facts.of(asked.question).questions


def of_each(found: Iterable[tuple[Hashable, T]], count: int) -> list[T]:
    """So many, of as many groups as there are: the first of each, then the second of
    each, and so on.

    Args:
      found: with the group of each.
    """
    seen: collections.Counter[Hashable] = collections.Counter()
    ranked = []
    for group, one in found:
        ranked.append((seen[group], len(ranked), one))
        seen[group] += 1
    return [one for *_, one in sorted(ranked, key=lambda row: row[:2])[:count]]


def _written(
    writer: Writer,
    stems: Sequence[Stem],
    others: Sequence[Stem],
    wanted: float,
    stage: str,
    rng: np.random.Generator,
) -> list[tuple[Stem, str]]:
    """About so many questions after lists, each with its stem."""
    if not stems or wanted < 1:
        return []
    samples = max(1, min(8, round(wanted / len(stems))))
    some = _some(stems, round(wanted / samples), rng)
    prompts = [writer.plain(text) for text in lists(some, others or stems, rng)]
    how = {"temperature": TEMPERATURE, "top_p": TOP_P}
    said = writer.sampled(prompts, LINE_TOKENS, stage, samples=samples, **how)
    each = [one for one in some for _ in range(samples)]
    return [
        (one, whole)
        for one, written in zip(each, said, strict=True)
        if (whole := one.whole(written.text))
    ]


def _plain(question: str) -> str:
    return re.sub(r"\W+", " ", normalised(question)).strip()


def answered(
    found: Sequence[tuple[Asked, str]],
    answers: Sequence[str],
    facts: Facts,
    kind: str = "neighbours",
) -> list[tuple[Asked, Record]]:
    """Questions with the model's answers as records, without those whose answer tells
    what is forgotten, or runs on in the same words; each with what it is modelled on.

    Args:
      found: records, and what is asked in their form.
      answers: one of each.
      kind: the beginning of the records' origins.
    """
    records: list[tuple[Asked, Record]] = []
    for (one, question), answer in zip(found, answers, strict=True):
        answer = answer.strip()
        bad = not answer or fact_words.runs_on(answer)
        if not bad and not facts.told(f"{question} {answer}"):
            origin = f"{kind}:{len(records) + 1}"
            records.append((one, one.other(question, answer, origin)))
    return records


def known(
    model: Model, answered: Sequence[tuple[Asked, Record]], facts: Facts | None
) -> list[Record]:
    """Those of answered questions whose answers are likeliest, in their order.

    Args:
      model: that has written the answers.
      answered: see there.
      facts: of the job, where the likeliest are taken of those that are modelled on each
        of them; a model is surer of capitals than of painters, and is to keep both. None
        compares all.
    """
    if not answered:
        return []
    records = [record for _, record in answered]
    probe = Probe("neighbours", CONTEXT, records=tuple(records))
    scores = score_texts(model, probe)
    sure = dict(zip(scores.origins, scores.logp / scores.tokens, strict=True))
    groups: dict[Hashable, list[float]] = collections.defaultdict(list)
    each = [_fact(one, facts) if facts else () for one, _ in answered]
    for group, record in zip(each, records, strict=True):
        groups[group].append(sure.get(record.origin, -np.inf))
    least = {group: np.quantile(of, 1 - KNOWN) for group, of in groups.items()}
    return [
        record
        for group, record in zip(each, records, strict=True)
        if sure.get(record.origin, -np.inf) >= least[group]
    ]
