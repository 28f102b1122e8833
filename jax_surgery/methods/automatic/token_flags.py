# SPDX-License-Identifier: Apache-2.0
"""Which tokens say the marked words of records, over documents laid end to end."""

import bisect
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_surgery.data import tokens
from jax_surgery.data.forms import Record
from jax_surgery.data.tokens import Document, Located
from jax_surgery.methods.automatic import words
from jax_surgery.methods.automatic.subjects import Marks, Span

POOLED = 2000  # records


class Flags(NamedTuple):
    """Of each token, bool [tokens].

    Attributes:
      hidden: gets noise, since it names the subject.
      answer: of a word of the short answer.
      excluded: never carries knowledge.
      inside: goes on with a word that began before it.
    """

    hidden: np.ndarray
    answer: np.ndarray
    excluded: np.ndarray
    inside: np.ndarray


def _touched(spans: np.ndarray, marked: Sequence[Span], firsts: np.ndarray):
    """Which tokens say a character of some marked words, bool [n].

    Args:
      spans: characters of the tokens, [n, 2].
      firsts: first letter or digit of each token; -1 where there is none.
    """
    starts = [start for start, _ in marked]
    found = np.zeros(len(spans), bool)
    for i, ((_, stop), first) in enumerate(zip(spans, firsts, strict=True)):
        if first < 0:
            continue
        # The last word that begins before the token ends.
        last = bisect.bisect_left(starts, stop) - 1
        found[i] = last >= 0 and marked[last][1] > first
    return found


def of_record(located: Located, marks: Marks, special: Sequence[int]) -> Flags:
    """The flags of a record's tokens.

    Args:
      special: tokens that are no text.
    """
    text, spans = located.rendered.text, located.spans
    firsts = np.asarray(
        [
            next((i for i in range(start, stop) if text[i].isalnum()), -1)
            for start, stop in spans
        ]
    )
    firsts[np.isin(located.document.tokens, special)] = -1
    spelled = words.spelled(text)
    inside = np.asarray([int(first) in spelled for first in firsts])
    # Tokens of one character of several bytes begin where the one before has not ended.
    inside[1:] |= (spans[1:, 0] < spans[:-1, 1]) & (firsts[1:] >= 0)
    touched = lambda marked: _touched(spans, marked, firsts)
    return Flags(
        touched(sorted(marks.subject)),
        touched(marks.answer),
        (firsts < 0) | touched(marks.others),
        inside,
    )


def pool(records: Sequence[Record], tokenizer: Any, seed: int) -> np.ndarray:
    """Tokens that begin what records tell, other than words of function: what else
    could be said where something is forgotten. int32 [P], sorted.

    Args:
      seed: decides which records are read where there are more than `POOLED`.
    """
    rng = np.random.default_rng(seed)
    some = sorted(rng.permutation(len(records))[:POOLED])
    found: set[int] = set()
    for one in tokens.locate([records[i] for i in some], tokenizer):
        begins = {
            word.start
            for span in one.rendered.spans
            for word in words.of(one.rendered.text, span.start, span.end)
            if word.key not in words.frequent()
        }
        text = one.rendered.text
        for token, (start, stop) in zip(one.document.tokens, one.spans, strict=True):
            first = next((i for i in range(start, stop) if text[i].isalnum()), -1)
            if first in begins:
                found.add(int(token))
    return np.asarray(sorted(found), np.int32)


def first_of_words(chosen: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Which chosen tokens are the first chosen ones of their word, bool [tokens].

    Args:
      chosen: bool [tokens].
      inside: bool [tokens]; whether a token goes on with the word of the one before.
    """
    word = np.cumsum(~inside)
    found = np.zeros(len(chosen), bool)
    places = np.flatnonzero(chosen)
    found[places[np.unique(word[places], return_index=True)[1]]] = True
    return found


def of_documents(
    documents: Sequence[Document], located: Sequence[Located], flags: Sequence[Flags]
) -> Flags:
    """The flags of documents laid end to end, which are the records' or pieces of them.

    Raises:
      ValueError: a document that is no piece of a record, or not in the records' order.
    """
    found, record, place = [], 0, 0
    for document in documents:
        size = len(document.tokens)
        while record < len(located):
            own = located[record].document.tokens
            where = [
                start
                for start in range(place, len(own) - size + 1)
                if np.array_equal(own[start : start + size], document.tokens)
            ]
            if where:
                break
            record, place = record + 1, 0
        else:
            raise ValueError(
                f"the document of {document.origin or 'an unnamed record'} is no piece "
                "of the records that follow; give the records that the documents were "
                "encoded from, in the same order."
            )
        piece = slice(where[0], where[0] + size)
        found.append([flag[piece] for flag in flags[record]])
        # A later piece begins with the last token of this one.
        place = where[0] + max(1, size - 1)
    return Flags(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
