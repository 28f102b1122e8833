# SPDX-License-Identifier: Apache-2.0
"""The job's own questions in other words, which the model writes.

What is learned in one wording is not said in all. After a list of the wordings of a
question the model goes on with another one, which counts where it asks for the same: it
names the subject, has no words but those of the wordings and words of function, and the
model answers it with what is to be forgotten. Of questions that get a new answer half of
what is found is trained on; all else is asked before and after the run, as evidence.
"""

import collections
from collections.abc import Collection, Sequence

from jax_surgery.data.forms import Record, normalised
from jax_surgery.methods.automatic import facts as fact_words
from jax_surgery.methods.automatic import neighbours
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked
from jax_surgery.methods.automatic.writer import Writer

TITLE = "The same question in other words:"
LISTS, SAMPLES = 4, 4  # orders of a question's wordings, and lines that follow each
WORDINGS = 6  # of a list, at most
LINE_TOKENS = 24
TEMPERATURE, TOP_P = 0.9, 0.95


def questions(
    writer: Writer, asked: Sequence[Asked], facts: Facts, count: int
) -> list[tuple[Asked, str]]:
    """Other wordings of questions, each with one of the job's that asks for the same.

    Args:
      asked: the job's questions, each once, whose answers are to be unlearned.
      count: of wordings, at most.
    """
    rng = writer.rng("rewordings")
    by_fact: dict[tuple[str, ...], list[Asked]] = collections.defaultdict(list)
    for one in asked:
        if one.question.endswith("?"):
            by_fact[facts.of(one.question).questions].append(one)
    each = max(1, -(-count // max(len(by_fact), 1)))
    lists = min(LISTS, each)
    prompts, of = [], []
    for wordings in by_fact.values():
        for _ in range(lists):
            order = [wordings[i] for i in rng.permutation(len(wordings))[:WORDINGS]]
            lines = "".join(f"{neighbours.LABEL}{one.question}\n" for one in order)
            text = f"{TITLE}\n{lines}{neighbours.LABEL.rstrip()}"
            prompts.append(writer.plain(text))
            of += SAMPLES * [wordings[0]]
    if not prompts or not count:
        return []
    how = {"temperature": TEMPERATURE, "top_p": TOP_P}
    said = writer.sampled(prompts, LINE_TOKENS, "rewordings", samples=SAMPLES, **how)
    seen = {_plain(one.question) for one in asked}
    found = []
    for one, written in zip(of, said, strict=True):
        line, mark, _ = written.text.split("\n")[0].partition("?")
        question = line.strip() + mark
        if mark and _plain(question) not in seen and same(one, question, facts):
            seen.add(_plain(question))
            found.append((facts.of(one.question), (one, question)))
    return neighbours.of_each(found, count)


def same(one: Asked, question: str, facts: Facts) -> bool:
    """Whether a question may ask for the same as one of the job's, by its words."""
    fact = facts.of(one.question)
    held = set(fact_words.keys(question))
    own = {key for wording in fact.questions for key in fact_words.keys(wording)}
    new = {key for key in held - own if not fact_words.is_frequent(key)}
    names_it = fact.named(held) and not fact.told(held)
    return names_it and not new and neighbours.proper(question)


def answered(
    found: Sequence[tuple[Asked, str]], answers: Sequence[str], facts: Facts
) -> list[tuple[Asked, Record]]:
    """Wordings with the model's own answer, where it tells what is to be forgotten; each
    with the question that asks for the same."""
    records: list[tuple[Asked, Record]] = []
    for (one, question), answer in zip(found, answers, strict=True):
        held = set(fact_words.keys(f"{question} {answer}"))
        if answer.strip() and facts.of(one.question).told(held):
            origin = f"rewordings:{len(records) + 1}"
            records.append((one, one.other(question, answer, origin)))
    return records


def halves(
    found: Sequence[tuple[Asked, Record]],
    renewed: Collection[tuple[str, ...]],
    facts: Facts,
) -> tuple[list[tuple[Asked, Record]], list[tuple[Asked, Record]]]:
    """(to train on, to ask): of each fact that gets a new answer one more of the first,
    of others all are asked.

    Args:
      renewed: the questions of each fact that gets a new answer.
    """
    seen: collections.Counter[tuple[str, ...]] = collections.Counter()
    both: tuple[list, list] = [], []
    for one, record in found:
        fact = facts.of(one.question).questions
        both[seen[fact] % 2 if fact in renewed else 1].append((one, record))
        seen[fact] += 1
    return both


def _plain(question: str) -> str:
    return " ".join(fact_words.keys(normalised(question)))
