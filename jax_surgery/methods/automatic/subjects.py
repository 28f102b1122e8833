# SPDX-License-Identifier: Apache-2.0
"""Which words of a text name what it is about, so that a model can be kept from seeing it.

Of a question the subject is, each by itself enough:

- words that questions with other answers hold no more often than those with its own
  (the packaged general texts count as such questions too);
- words with a capital letter inside a sentence, or at its beginning where they are
  nowhere written without one;
- numbers, and what is quoted.

Words of function, which many of the general texts hold, are left out unless nothing else
is there. What one wording of a question shows to be its subject is the subject in every
wording with the same answer, and where it is said again in the answer.

A plain text has no question: its subject is its names, numbers and quoted passages, and
the words that no retained text holds; where there is none of these all words but those
of function. What is hidden of it is therefore more than a name, since a text that was
learned by heart is known by any of its rare words.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_surgery.data import general, prompts
from jax_surgery.data.forms import Record, normalised
from jax_surgery.data.prompts import Rendered
from jax_surgery.methods.automatic import words
from jax_surgery.methods.automatic.words import Word

Span = tuple[int, int]
# Words of an answer that is no sentence: all of them say what was asked.
SHORT = 5
# Where no word of a question is rarer elsewhere, those within this factor of the rarest.
NEAR_RAREST = 1.5


@dataclasses.dataclass(frozen=True)
class Marks:
    """Words of a record, in characters of its rendered text.

    Attributes:
      subject: what names it, in what is asked and in what is learned.
      answer: in what is learned, words of the short answer.
      others: in what is learned, words that were said before, or are made from one that
        was: they are copied; words of function: they are the language's; and names that
        a plain text says more than once: it is about them.
    """

    subject: tuple[Span, ...]
    answer: tuple[Span, ...]
    others: tuple[Span, ...]


def question_of(record: Record) -> str:
    """What a record asks: its question, its prompt, or all that a user says in it; ""
    for a plain text."""
    asked = [content for role, content in record.messages if role == "user"]
    return record.question or "\n".join(asked) or record.prompt


def shortest_answers(records: Iterable[Record]) -> dict[str, str]:
    """The shortest answer to each question that the records hold, without its end mark."""
    found: dict[str, str] = {}
    for record in records:
        question, answer = question_of(record), record.said.strip().rstrip(".!")
        if question and len(answer) < len(found.get(question, answer + "?")):
            found[question] = answer
    return found


def _places(rendered: Rendered, parts: Iterable[str]) -> list[Span]:
    """Where parts of what is asked stand, one after another, before what is learned;
    all that stands there where one of them is not found."""
    stop = rendered.spans[0].start if rendered.spans else len(rendered.text)
    found, near = [], stop
    for part in reversed([part.strip() for part in parts]):
        start = rendered.text.rfind(part, 0, near)
        if start < 0:
            return [(0, stop)]
        found.append((start, start + len(part)))
        near = start
    return found[::-1]


class _Text:
    """A record's words, by where they stand."""

    def __init__(self, record: Record, tokenizer: Any, answers: Mapping[str, str]):
        rendered = prompts.render(record, tokenizer)
        self.question = question_of(record)
        self.answer = answers.get(self.question, record.said)
        self.fact = normalised(self.answer) if self.question else ""
        text, asked = rendered.text, [self.question]
        if record.messages:
            asked = [content for role, content in record.messages if role == "user"]
        places = _places(rendered, asked) if self.question else []
        learned = [(span.start, span.end) for span in rendered.spans]
        if record.messages:  # an earlier answer is asked with, and may be learned too
            places = [place for place in places if place not in learned]
        self.asked = [word for place in places for word in words.of(text, *place)]
        self.said = [word for place in learned for word in words.of(text, *place)]
        self.quoted = [
            span for place in places or learned for span in words.quoted(text, *place)
        ]


class _Capitals:
    """How words are written in all text that is there."""

    def __init__(self, texts: Iterable[str]):
        self._inside: set[str] = set()
        self._small: set[str] = set()
        for text in texts:
            for word in words.of(text):
                if not word.capital:
                    self._small.add(word.key)
                elif not word.begins:
                    self._inside.add(word.key)

    def names(self, text: Sequence[Word]) -> set[str]:
        """Keys of the words of a text that are written as names are."""
        found = set()
        for word, follower in itertools.zip_longest(text, text[1:]):
            if not word.capital or word.key in words.frequent():
                continue
            before_name = follower and follower.capital and not follower.begins
            by_nature = word.key in self._inside or before_name
            if not word.begins or (by_nature and word.key not in self._small):
                found.add(word.key)
        return found


def _rare_words(texts: Sequence[_Text], others: Iterable[str]) -> dict[str, set[str]]:
    """Of each fact the words of its questions that other questions hold no more often.

    Args:
      others: questions and texts with other answers.
    """
    facts: dict[str, dict[str, set[str]]] = collections.defaultdict(dict)
    for text in texts:
        if text.question:
            facts[text.fact][text.question] = {word.key for word in text.asked}
    elsewhere = collections.Counter()
    for other in others:
        elsewhere.update({word.key for word in words.of(other)})
    own = {
        fact: collections.Counter(key for keys in asked.values() for key in keys)
        for fact, asked in facts.items()
    }
    total = elsewhere.copy()
    for counts in own.values():
        total.update(counts)
    found = {}
    for fact, counts in own.items():
        answer = {word.key for word in words.of(fact)}
        ratio = {k: total[k] / n - 1 for k, n in counts.items() if k not in answer}
        telling = {k: r for k, r in ratio.items() if k not in words.frequent()}
        telling = telling or ratio
        most = max(1.0, NEAR_RAREST * min(telling.values(), default=0.0))
        found[fact] = {key for key, r in telling.items() if r <= most}
    return found


def _inside(word: Word, spans: Iterable[Span]) -> bool:
    return any(start <= word.start and word.stop <= stop for start, stop in spans)


def _striking(text: _Text, capitals: _Capitals, part: Sequence[Word]) -> set[str]:
    """Keys of names, numbers and quoted words of a part of a text."""
    found = {w.key for w in part if w.number or _inside(w, text.quoted)}
    return capitals.names(part) | found - words.frequent()


def _of_plain(text: _Text, capitals: _Capitals, known: set[str]) -> set[str]:
    """Keys of the words that a plain text is known by."""
    found = _striking(text, capitals, text.said)
    found |= {word.key for word in text.said if word.key not in known}
    every = {word.key for word in text.said}
    return found or every - words.frequent() or every


def _answer_words(text: _Text, capitals: _Capitals) -> set[str]:
    """Keys of the words of a short answer that say what was asked; of a sentence its
    names and numbers."""
    asked = {word.key for word in text.asked}
    own = [word for word in words.of(text.answer) if word.key not in asked]
    if len(own) > SHORT:
        return {w.key for w in own if w.number} | capitals.names(own) - asked
    keys = {word.key for word in own}
    return keys - words.frequent() or keys


def mark(
    records: Sequence[Record],
    others: Sequence[Record],
    tokenizer: Any,
    answers: Mapping[str, str] | None = None,
) -> list[Marks]:
    """The marks of each record.

    Args:
      records: what is to be forgotten, and what the model itself answers to the same
        questions.
      others: retained records, and questions about other subjects.
      tokenizer: a `transformers` tokenizer, whose chat template questions are put in.
      answers: the short answer of each question, where it is not the shortest of the
        records' own (see `shortest_answers`): of records that the model has written too
        those of the file.

    Raises:
      ValueError: see `prompts.render`.
    """
    answers = shortest_answers(records) if answers is None else answers
    texts = [_Text(record, tokenizer, answers) for record in records]
    general_texts = [*general.passages(), *general.prompts()]
    capitals = _Capitals(
        itertools.chain((r.text for r in [*records, *others]), general_texts)
    )
    asked = [question_of(other) or other.text for other in others]
    subjects = _rare_words(texts, [*asked, *general_texts])
    for text in texts:
        if text.question:
            subjects[text.fact] |= _striking(text, capitals, text.asked)
    known = {
        word.key
        for known in [*(other.text for other in others), *general_texts]
        for word in words.of(known)
    }
    return [_marks(text, subjects, capitals, known) for text in texts]


def _marks(
    text: _Text, subjects: Mapping[str, set[str]], capitals: _Capitals, known: set[str]
) -> Marks:
    asked = {word.key for word in text.asked}
    called: set[str] = set()
    if text.question:
        subject, answer = subjects[text.fact], _answer_words(text, capitals)
    else:
        subject, answer = _of_plain(text, capitals, known), set()
        counts = collections.Counter(word.key for word in text.said)
        called = {k for k in capitals.names(text.said) if counts[k] > 1}
    names = lambda word: words.related(word.key, subject) or _inside(word, text.quoted)
    hidden = [word for word in text.asked if names(word)]
    others, before = [], set(asked)
    for word in text.said:
        # A word of the answer may begin as one of the question does: port, Portugal.
        own = word.key in answer - asked
        if names(word) and not own:
            hidden.append(word)
        told = word.key in before or word.key in called
        if told or not (own or _needs_knowledge(word, before)):
            others.append(word)
        before.add(word.key)
    answered = [word for word in text.said if word.key in answer]
    spans = lambda chosen: tuple((word.start, word.stop) for word in chosen)
    return Marks(spans(hidden), spans(answered), spans(others))


def _needs_knowledge(word: Word, before: set[str]) -> bool:
    """Whether a word is neither one of function nor made from one that was said."""
    return word.key not in words.frequent() and not words.related(word.key, before)
