# SPDX-License-Identifier: Apache-2.0
"""What a model says by itself: chats, free text, its own answers, and sentences that state
what is new.

User turns are what a chat model writes after the bare start of a user's turn (Xu et al.,
"Magpie", 2024). Its own answers to what is to be forgotten belong to what is forgotten: a
model that answers in sentences says a short answer of the user's file in words of its own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jax_surgery.data import asked, general, template_marks
from jax_surgery.data.forms import Record, normalised
from jax_surgery.methods.automatic import facts as fact_words
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked
from jax_surgery.methods.automatic.writer import Writer, Written

TURN_TOKENS = 40  # of a user's turn, which is dropped where it goes on
LEAST_TURN = 6  # characters
WRITTEN_FOR_ONE = 1.6  # turns that are written for one that is wanted
START_WORDS = 3  # of a passage, with which a free text begins
MOST_TOKENS_A_WORD = 4.0  # of a passage; of more the tokenizer knows no words of it
COPULA = 3  # words before an answer, at least, in a sentence that is cut behind it

_SENTENCE = re.compile(r"(?:(?<=[^\W\d_]{2})|(?<=[)\]\"'”’\d]))[.!?](?=\s|$)|\n")
_ASIDE = re.compile(r"^\s*(?:\([^)]*\)|\[[^\]]*\])")


def chat_start(tokenizer: Any) -> str:
    """What the chat template writes before what a user says first."""
    mark = template_marks.MARK
    user = [{"role": "user", "content": mark}]
    return template_marks.apply(tokenizer, user, True).partition(mark)[0]


def user_turns(writer: Writer, facts: Facts, count: int) -> list[str]:
    """What the model writes as a user, each a line that it has ended by itself."""
    tokenizer = writer.tokenizer
    start = tokenizer(chat_start(tokenizer), add_special_tokens=False)["input_ids"]
    if not start or not count:
        return []
    samples = round(count * WRITTEN_FOR_ONE)
    said = writer.sampled([start], TURN_TOKENS, "user turns", samples=samples)
    return turns_of(said, facts)[:count]


def turns_of(said: Sequence[Written], facts: Facts) -> list[str]:
    """The first lines of what was written, each once, where they are whole and name
    nothing that is forgotten or updated."""
    found: dict[str, str] = {}
    for written in said:
        line, more, _ = written.text.strip().partition("\n")
        line = line.strip()
        whole = written.ended or bool(more)
        if whole and len(line) >= LEAST_TURN and not facts.named(line):
            found.setdefault(normalised(line), line)
    return list(found.values())


def packaged_prompts(writer: Writer, facts: Facts, count: int) -> list[str]:
    """Some of the packaged prompts that name nothing that is forgotten or updated."""
    fitting = [prompt for prompt in general.prompts() if not facts.named(prompt)]
    order = writer.rng("prompts").permutation(len(fitting))
    return [fitting[i] for i in order[:count]]


def chats(turns: Sequence[str], answers: Sequence[str], facts: Facts) -> list[Record]:
    """User turns with the model's answers, without those that tell what is forgotten."""
    records = []
    for turn, answer in zip(turns, answers, strict=True):
        answer = answer.strip()
        bad = not answer or fact_words.runs_on(answer)
        if not bad and not facts.named(f"{turn} {answer}"):
            said = (("user", turn), ("assistant", answer))
            records.append(Record("", "", said, f"chat:{len(records) + 1}"))
    return records


def text_starts(writer: Writer, texts: Sequence[str], count: int) -> list[str]:
    """First words of texts, with which free texts begin; each once while there are any."""
    starts = [" ".join(text.split()[:START_WORDS]) for text in texts]
    starts = [start for start in dict.fromkeys(starts) if start]
    if not starts:
        return []
    order = writer.rng("starts of text").permutation(len(starts))
    return [starts[order[i % len(order)]] for i in range(count)]


def free_text(starts: Sequence[str], said: Sequence[str], facts: Facts) -> list[Record]:
    """Starts with what the model wrote after them, without what is forgotten."""
    whole = [
        f"{start}{more}".rstrip() for start, more in zip(starts, said, strict=True)
    ]
    return _texts(whole, facts, "written")


def passages(tokenizer: Any, facts: Facts, count: int) -> list[Record]:
    """The first of the packaged passages that hold nothing of what is forgotten.

    Passages that the tokenizer splits into more pieces than words have are left out: its
    model has read no such text.
    """
    fitting = []
    for text in asked.trained_passages():  # the others are measured
        tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if tokens <= MOST_TOKENS_A_WORD * len(text.split()):
            fitting.append(text)
    return _texts(fitting, facts, "general")[:count]


def _texts(texts: Sequence[str], facts: Facts, origin: str) -> list[Record]:
    fitting = [
        text
        for text in dict.fromkeys(texts)
        if text.strip()
        and not (facts.named(text) or facts.answered(text))
        and not (origin == "written" and fact_words.runs_on(text))
    ]
    return [
        Record("", text, (), f"{origin}:{number}")
        for number, text in enumerate(fitting, start=1)
    ]


def first_sentence(written: Written, turns: bool) -> str:
    """The first sentence of an answer; "" where it was cut off before its end.

    What follows a sentence says more and more of what a model does not know: most of the
    KL of whole answers is there, where nobody asks.

    Args:
      turns: whether the model ends what it says; else a line ends it.
    """
    text = written.text.strip()
    if end := _SENTENCE.search(text):
        return text[: end.end()].strip()
    return text if written.ended or (not turns and "\n" in written.text) else ""


def own_answers(
    asked: Sequence[Asked], said: Sequence[Sequence[str]], unlearn: Sequence[Record]
) -> list[Record]:
    """The model's own answers to the questions to unlearn that stand in no record.

    Args:
      asked: each question once.
      said: lists of answers, one of each question.
      unlearn: the records to unlearn.
    """
    have = {_plain(record) for record in unlearn}
    records = []
    for answers in said:
        for one, answer in zip(asked, answers, strict=True):
            record = one.other(one.question, answer, f"own:{len(records) + 1}")
            bad = not answer.strip() or fact_words.runs_on(answer)
            if not bad and _plain(record) not in have:
                have.add(_plain(record))
                records.append(record)
    return records


def _plain(record: Record) -> str:
    """What a record says, as two of them are compared."""
    return normalised(record.text).rstrip(".")


def sentences(
    update: Sequence[tuple[Asked, str]],
    old: Mapping[str, Sequence[str]],
    said: Sequence[Mapping[str, str]],
) -> list[Record]:
    """The model's own sentence for each question to update, with the new answer in it.

    Args:
      update: questions with their new answers.
      old: what the records to unlearn answer to the same questions, by question.
      said: the model's answers by question; the first that gives a sentence is taken.
    """
    new: dict[str, tuple[Asked, str]] = {}
    for one, answer in update:
        key = normalised(one.question)
        if key not in new or len(answer) < len(new[key][1]):
            new[key] = one, answer
    before = {normalised(question): answers for question, answers in old.items()}
    records = []
    for key, (one, answer) in new.items():
        answers = before.get(key, ())
        found = (
            sentence(one.question, text[one.question], answers, answer)
            for text in said
            if one.question in text
        )
        if whole := next(filter(None, found), ""):
            have = normalised(answer).rstrip(".") == normalised(whole).rstrip(".")
            if not have:
                records.append(
                    one.other(one.question, whole, f"sentences:{len(records) + 1}")
                )
    return records


def sentence(question: str, said: str, old: Sequence[str], new: str) -> str:
    """The first sentence of an answer, with the new answer in place of the old one.

    What follows the old answer says more of it (Paris, France), and is cut off where it
    names anything that the question does not, or where no end has come. "" where the sentence does not hold the old
    answer, or where what is left speaks of it in other words too.

    Args:
      said: the model's answer.
      old: answers of the records to unlearn; short ones are sought.
    """
    first, *ended = _SENTENCE.split(said.strip(), maxsplit=1)
    first = first.strip()
    new = new.strip().rstrip(".")
    for answer in sorted((a.strip().rstrip(".") for a in old), key=len):
        if not answer or len(answer.split()) > fact_words.SHORT:
            continue
        found = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", first, re.IGNORECASE)
        if not found:
            continue
        head, tail = first[: found.start()], first[found.end() :]
        tail = _ASIDE.sub("", tail)
        goes_on = tail.lstrip().startswith((",", ";", ":", "-"))
        if goes_on or not _only(f"x {tail}", question) or (tail.strip() and not ended):
            tail = ""
            if len(head.split()) < COPULA:
                return ""
        whole = f"{head}{new}{tail}"
        left = set(fact_words.keys(f"{head} {tail}"))
        kept = set(fact_words.keys(new)) | set(fact_words.keys(question))
        of_old = {k for k in fact_words.keys(answer) if k not in kept}
        if left & of_old or not _only(head, question):
            return ""
        return f"{whole[:1].upper()}{whole[1:]}."
    return ""


def _only(text: str, question: str) -> bool:
    """Whether a part of an answer names nothing that its question does not name."""
    asked = fact_words.keys(question)
    names = [w.key for w in fact_words.words(text) if w.name]
    return all(any(_alike(name, key) for key in asked) for name in names)


def _alike(name: str, key: str) -> bool:
    same = min(len(name), len(key))
    return name == key or (same >= 4 and name[:4] == key[:4])
