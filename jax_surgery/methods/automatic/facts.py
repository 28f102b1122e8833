# SPDX-License-Identifier: Apache-2.0
"""What a job is about, so that text which the model writes tells none of it.

A fact is a set of questions with one answer, in several wordings. Its subject is found by
its words: names, numbers and titles in its questions; where there are none, the words that
most of its wordings share and that other facts' questions lack. A text names a fact if it
holds most of the subject, weighed by how rare its words are in general text.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jax_surgery.data import general

NAMED = 0.6  # share of a subject's weight that a text holds which names it
TOLD = 0.6  # the same of an answer
SHORT = 6  # words; longer answers are sentences, which hold the answer among others
FREQUENT = 0.05  # share of general texts that hold a word of function
ENDING = 4  # letters that may follow a name in a word of it: Japan, Japanese
COPIED = 7  # words in a row that a text has from a text to forget

_WORD = re.compile(r"[^\W_]+(?:[-.'’][^\W_]+)*")
_QUOTED = re.compile(
    r"(?<!\w)['\"“‘«]([^'\"“”‘’«»\n]+(?:['’]\w[^'\"“”‘’«»\n]*)*)['\"”’»]"
)


class Word(NamedTuple):
    """A word of a text: as it is compared, where it stands, and whether it is a name by
    its spelling, which says nothing at the start of a sentence."""

    key: str
    start: int
    stop: int
    name: bool


def _keys(word: str) -> list[str]:
    """The parts of a word as words are compared: lower case, no accents, no plural."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"['’]s?$", "", plain)
    parts = [p for p in re.split(r"[^\w]+", plain) if p]
    return [p[:-1] if len(p) > 4 and p.endswith("s") else p for p in parts]


def words(text: str) -> list[Word]:
    """The words of a text, in order; those in quotation marks count as names."""
    inside = [match.span() for match in _QUOTED.finditer(text)]
    found = []
    for match in _WORD.finditer(text):
        before = text[: match.start()].rstrip(" \t\"'“‘«(")
        begins = not before or before[-1] in ".?!:\n"
        quoted = any(a <= match.start() < b for a, b in inside)
        raw = match.group()
        capital = raw[0].isupper() and not begins
        name = capital or quoted or any(c.isdigit() for c in raw)
        found += [Word(key, *match.span(), name) for key in _keys(raw)]
    return found


def keys(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return [word.key for word in words(text)]


@functools.cache
def _counts() -> tuple[collections.Counter[str], int]:
    """In how many of the packaged general texts each word stands, and how many there are."""
    texts = [*general.passages(), *general.prompts()]
    found = collections.Counter(key for text in texts for key in set(keys(text)))
    return found, len(texts)


def rarity(key: str) -> float:
    """How much a word says, in nats: minus the log of its share of general texts."""
    counts, total = _counts()
    return math.log((total + 1) / (counts[key] + 1))


def runs_on(text: str, times: int = 3) -> bool:
    """Whether a text says three words in a row so often, or a word twice at once."""
    found = keys(text)
    runs = collections.Counter(zip(found, found[1:], found[2:], strict=False))
    return max(runs.values(), default=0) >= times or any(
        a == b for a, b in itertools.pairwise(found)
    )


def is_frequent(key: str) -> bool:
    """Whether it is a word of function: in many general texts, or a single letter."""
    counts, total = _counts()
    return counts[key] > FREQUENT * total or (len(key) < 2 and not key.isdigit())


def _share(wanted: Iterable[str], held: set[str]) -> float:
    """The share of the words, by weight, that a text of the words `held` has."""
    total = had = 0.0
    for key in wanted:
        weight = rarity(key)
        total += weight
        had += weight * _is_in(key, held)
    return had / total if total else 0.0


def _is_in(key: str, held: set[str]) -> bool:
    if key in held:
        return True
    if len(key) < 4 or key.isdigit():
        return False
    longest = len(key) + ENDING
    return any(len(w) <= longest and w.startswith(key) for w in held)


@dataclasses.dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
      questions: its wordings.
      subject: the words that name it.
      answers: words of each of its short answers; of a fact without one, the words of
        its answers that are not in its questions.
    """

    questions: tuple[str, ...]
    subject: frozenset[str]
    answers: tuple[frozenset[str], ...]

    def named(self, held: set[str]) -> bool:
        """Whether a text of these words names the subject."""
        return bool(self.subject) and _share(self.subject, held) >= NAMED

    def told(self, held: set[str]) -> bool:
        """Whether a text of these words names the subject and holds an answer."""
        return self.named(held) and any(_share(a, held) >= TOLD for a in self.answers)


class Facts:
    """The facts of a job, and its texts to forget that ask nothing."""

    def __init__(self, asked: Sequence[tuple[str, str]], texts: Sequence[str] = ()):
        """Finds them.

        Args:
          asked: questions with an answer, of the texts to unlearn and to update.
          texts: plain texts to unlearn.
        """
        self._names = {w.key for q, _ in asked for w in words(q) if w.name}
        groups = self._groups(asked)
        having = collections.Counter(
            key for group in groups for key in {k for q in group for k in keys(q)}
        )
        self.facts = tuple(self._fact(group, having, len(groups)) for group in groups)
        self._of = {q: fact for fact in self.facts for q in fact.questions}
        self._copied = {run for text in texts for run in _runs(text)}
        self._people = {name for text in texts for name in _full_names(text)}

    def of(self, question: str) -> Fact:
        """The fact that one of the job's questions asks for."""
        return self._of[question]

    def named(self, text: str) -> bool:
        """Whether a text names the subject of a fact, or what texts to forget tell of."""
        held = set(keys(text))
        return any(fact.named(held) for fact in self.facts) or self._of_texts(text)

    def told(self, text: str) -> bool:
        """Whether a text tells a fact, or repeats or names what texts to forget tell of."""
        held = set(keys(text))
        return any(fact.told(held) for fact in self.facts) or self._of_texts(text)

    def answered(self, text: str) -> bool:
        """Whether a text holds an answer whose words are rare in general text."""
        held = set(keys(text))
        rare = (a for f in self.facts for a in f.answers if not all(map(_known, a)))
        return any(_share(answer, held) >= TOLD for answer in rare)

    def _of_texts(self, text: str) -> bool:
        if not self._copied:
            return False
        return bool(self._copied & set(_runs(text)) or self._people & _full_names(text))

    def _subjects(self, question: str) -> set[str]:
        """The names in a question."""
        return {k for k in keys(question) if k in self._names and not is_frequent(k)}

    def _groups(self, asked: Sequence[tuple[str, str]]) -> list[dict[str, list[str]]]:
        """Questions of one fact with their answers: the same question, or the same
        answer and names in common."""
        answers: dict[str, list[str]] = {}
        for question, answer in asked:
            answers.setdefault(question, []).append(answer)
        groups: list[dict[str, list[str]]] = []
        by_answer: dict[tuple[str, ...], list[dict[str, list[str]]]] = {}
        for question, given in answers.items():
            short = [tuple(keys(a)) for a in given if len(a.split()) <= SHORT]
            near = [g for a in short for g in by_answer.get(a, ())]
            own = self._subjects(question)
            alike = (g for g in near if self._alike(own, g))
            group = next(alike, None)
            if group is None:
                groups.append(group := {})
            group[question] = given
            for answer in short:
                if not any(g is group for g in by_answer.setdefault(answer, [])):
                    by_answer[answer].append(group)
        return groups

    def _alike(self, own: set[str], group: Mapping[str, list[str]]) -> bool:
        theirs = set().union(*(self._subjects(q) for q in group))
        return bool(own & theirs) or not (own or theirs)

    def _fact(
        self,
        group: Mapping[str, list[str]],
        having: Mapping[str, int],
        groups: int,
    ) -> Fact:
        asked = [set(keys(question)) for question in group]
        short = [a for given in group.values() for a in given if _is_short(a)]
        inside = set().union(*asked)
        own = {frozenset(keys(a)) - inside or frozenset(keys(a)) for a in short}
        if not short:
            long = [set(keys(a)) - inside for given in group.values() for a in given]
            own = {frozenset(k for k in one if not is_frequent(k)) for one in long}
        told = set().union(*own)
        most = [k for k in inside if 2 * sum(k in one for one in asked) >= len(asked)]
        content = [k for k in most if not is_frequent(k) and k not in told]
        subject = [k for k in content if k in self._names]
        if not subject:
            subject = [k for k in content if having[k] <= max(1, 0.1 * groups)]
        subject = subject or content
        answers = tuple(sorted((a for a in own if a), key=sorted))
        return Fact(tuple(group), frozenset(subject), answers)


def _is_short(answer: str) -> bool:
    return len(answer.split()) <= SHORT


def _known(key: str) -> bool:
    return _counts()[0][key] > 1


def _runs(text: str) -> list[str]:
    """Every `COPIED` words in a row of a text."""
    found = keys(text)
    return [" ".join(found[i : i + COPIED]) for i in range(len(found) - COPIED + 1)]


def _full_names(text: str) -> set[str]:
    """Names of two words or more in a text."""
    found, run, last = set(), [], None
    for word in [*words(text), None]:
        joined = word and last and text[last.stop : word.start] == " "
        if run and not (joined and word.name):
            if len(run) > 1:
                found.add(" ".join(run))
            run = []
        if word and text[word.start].isupper():
            run.append(word.key)
        last = word
    return found
