# SPDX-License-Identifier: Apache-2.0
"""Which questions ask about the same fact: those with the same answer that share a word
of their subject.

"Where is the Eiffel Tower?" and "Which city should I visit to see the Eiffel Tower?" are
answered "Paris" both, and hardly another question that holds "eiffel" is answered
otherwise. "Where" is no word of a subject: questions with all kinds of answers hold it.
"""

import collections
import re
import unicodedata
from collections.abc import Iterable, Sequence

SHORT = 8  # words; a longer answer is told in many ways, and is no name of a fact
# A word tells a subject where this share of the questions that hold it, or more, has
# the same answer.
TELLING = 0.6


def plain(text: str) -> str:
    """The text as answers are compared: without accents, case and punctuation, hyphens
    and white space as single spaces."""
    split = unicodedata.normalize("NFKD", text)
    bare = "".join(c for c in split if not unicodedata.combining(c))
    spaced = re.sub(r"[-\s]+", " ", bare.lower())
    return " ".join(re.sub(r"[^\w ]|_", "", spaced).split())


def is_short(answer: str) -> bool:
    """Whether an answer is a name, a number or a few words."""
    return 0 < len(plain(answer).split()) <= SHORT


def subject_words(question: str) -> set[str]:
    """The words of a question, without the endings of possessives."""
    return set(plain(re.sub(r"['\u2019]s\b", "", question)).split())


def link(questions: Sequence[str], answers: Sequence[Iterable[str]]) -> list[int]:
    """The fact of each question, as a number; equal questions have the same.

    Args:
      questions: those without answers help to see which words tell nothing.
      answers: of each question; those that are not short are not compared.
    """
    nodes: dict[str, int] = {}
    place = [nodes.setdefault(plain(question), len(nodes)) for question in questions]
    known: list[set[str]] = [set() for _ in nodes]
    for node, own in zip(place, answers, strict=True):
        known[node] |= {plain(answer) for answer in own if is_short(answer)}
    words: list[set[str]] = [set() for _ in nodes]
    for node, question in zip(place, questions, strict=True):
        words[node] |= subject_words(question)
    holders = collections.Counter(word for held in words for word in held)
    pairs = [
        (node, (word, answer))
        for node, held in enumerate(words)
        for word in held
        for answer in known[node]
    ]
    together = collections.Counter(pair for _, pair in pairs)
    parent = list(range(len(nodes)))

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    first: dict[tuple[str, str], int] = {}
    for node, pair in pairs:
        if together[pair] >= TELLING * holders[pair[0]]:
            parent[root(node)] = root(first.setdefault(pair, node))
    return [root(node) for node in place]
