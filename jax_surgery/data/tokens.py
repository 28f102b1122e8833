# SPDX-License-Identifier: Apache-2.0
"""Records as tokens, each token marked as learned or not.

- `prompts` renders records as text, and says what of it is learned.
- A token that straddles the border between prompt and answer is learned if it ends in
  the answer; one that straddles the end of an answer is learned.
- A text longer than the context is split into pieces that overlap by one token: each
  later piece begins with the last token of the one before, unlearned there, so that
  every learned token is a target exactly once. Pieces with no target are dropped.
  One warning counts both.
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from jax_surgery.data import prompts
from jax_surgery.data.forms import Record
from jax_surgery.data.prompts import Rendered, Span

_BATCH = 1024  # texts given to the tokenizer at once


@dataclasses.dataclass(frozen=True, eq=False)
class Document:
    """Tokens that are packed together, at most a context of them.

    Attributes:
      tokens: int32 [n].
      learned: bool [n]; the first token is never a target, learned or not.
      origin: of its record.
      stream: of its record.
    """

    tokens: np.ndarray
    learned: np.ndarray
    origin: str
    stream: int = 0

    @property
    def targets(self) -> int:
        """How many of its tokens are learned, the first one left out."""
        return int(self.learned[1:].sum())

    @property
    def prompt(self) -> np.ndarray:
        """Its tokens before the last learned stretch: what the last answer follows."""
        learned = np.flatnonzero(self.learned)
        if not len(learned):
            return self.tokens
        breaks = np.flatnonzero(np.diff(learned) > 1)
        return self.tokens[: learned[breaks[-1] + 1 if len(breaks) else 0]]


@dataclasses.dataclass(frozen=True, eq=False)
class Located:
    """A record as a document of any length, and where its tokens stand.

    Attributes:
      document: its tokens.
      rendered: its text.
      spans: first character of each token in that text, and the one behind its last,
        int64 [n, 2]; of a bos or eos that the text does not hold, nothing at its place.
    """

    document: Document
    rendered: Rendered
    spans: np.ndarray


def digest(documents: Iterable[Document]) -> str:
    """SHA-256 (hex) of tokens and of which are learned; origins do not count."""
    found = hashlib.sha256()
    for document in documents:
        found.update(len(document.tokens).to_bytes(4, "little"))
        found.update(document.tokens.astype("<i4").tobytes())
        found.update(document.learned.astype(np.uint8).tobytes())
    return found.hexdigest()


def _learned(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> np.ndarray:
    """Which tokens end inside a span (a token ends at its last character), or begin in
    what is said and reach beyond it."""
    starts, ends = np.asarray(offsets, np.int64).reshape(-1, 2).T
    learned = np.zeros(len(ends), bool)
    for start, said, stop in spans:
        learned |= (start < ends) & ((ends <= stop) | (starts < said))
    return learned


def encode_whole(
    records: Sequence[Record],
    tokenizer: Any,
    others: prompts.OtherPrompts | None = None,
) -> list[Document]:
    """Records as documents of any length, one each.

    Args:
      others: counts answers that follow other words than the prompt for generation;
        None where they are only asked for, and not learned.

    Raises:
      ValueError: see `prompts.render`.
    """
    documents = []
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        located = locate(batch, tokenizer)
        if others:
            others.count(batch, [one.rendered for one in located])
        documents += [one.document for one in located]
    return documents


def locate(records: Sequence[Record], tokenizer: Any) -> list[Located]:
    """`encode_whole`, with the place of each token in the record's text.

    Raises:
      ValueError: see `prompts.render`.
    """
    rendered = [prompts.render(record, tokenizer) for record in records]
    found = []
    for record, one, ids, offsets in zip(
        records, rendered, *_tokens(rendered, tokenizer), strict=True
    ):
        spans = np.asarray(offsets, np.int64).reshape(-1, 2)
        before = np.zeros((int(one.bos), 2), np.int64)
        behind = np.full((int(one.eos), 2), len(one.text), np.int64)
        document = _document(tokenizer, record, one, ids, offsets)
        found.append(Located(document, one, np.concatenate([before, spans, behind])))
    return found


def _tokens(rendered: Sequence[Rendered], tokenizer: Any) -> tuple[list, list]:
    """Of each text the token ids, and the characters that they stand for."""
    encoded = tokenizer(
        [one.text for one in rendered],
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,  # longer texts are split, and counted, here
    )
    return encoded["input_ids"], encoded["offset_mapping"]


def _document(
    tokenizer: Any, record: Record, rendered: Rendered, ids: list, offsets: list
) -> Document:
    learned = _learned(offsets, rendered.spans)
    if rendered.bos:
        ids, learned = [tokenizer.bos_token_id, *ids], np.pad(learned, (1, 0))
    if rendered.eos:
        ids = [*ids, tokenizer.eos_token_id]
        learned = np.pad(learned, (0, 1), constant_values=True)
    tokens = np.asarray(ids, np.int32)
    return Document(tokens, learned, record.origin, record.stream)


def without_end(document: Document, ends: Collection[int]) -> Document:
    """The document, its ends read but not learned: that a text ends is no knowledge.

    Left as it is where nothing else is learned.

    Args:
      ends: tokens that end what is said (see `template_marks.end_tokens`).
    """
    learned = document.learned & ~np.isin(document.tokens, list(ends))
    if not learned[1:].any():
        return document
    return dataclasses.replace(document, learned=learned)


def up_to_end(document: Document, ends: Collection[int]) -> Document:
    """The document up to the last learned token that is no end."""
    found = document.learned & ~np.isin(document.tokens, list(ends))
    stop = int(np.flatnonzero(found)[-1]) + 1 if found.any() else len(found)
    return Document(document.tokens[:stop], found[:stop], document.origin)


def split(document: Document, context: int) -> list[Document]:
    """Pieces of at most `context` tokens; every target of the whole is one of a piece."""
    length = len(document.tokens)
    if length <= context:
        return [document]
    pieces = []
    for start in range(0, length - 1, context - 1):
        stop = min(start + context, length)
        learned = document.learned[start:stop].copy()
        # Beyond the first piece this token is the last one of the piece before.
        learned[0] &= start == 0
        tokens = document.tokens[start:stop]
        pieces.append(dataclasses.replace(document, tokens=tokens, learned=learned))
    return pieces


def _warn_of_glue(records: Iterable[Record]) -> None:
    """Says when answers follow their prompts without a space in between."""
    glued = [
        f"{r.prompt[-20:]!r} + {r.answer[:20]!r} ({r.origin})"
        for r in records
        if r.prompt and r.prompt[-1].isalnum() and r.answer[0].isalnum()
    ]
    if glued:
        warnings.warn(
            f"{len(glued)} answers follow their prompt without a space, first "
            f"{glued[0]}; prompt and answer are joined as they stand, so begin the "
            "answer with a space.",
            stacklevel=3,
        )


def _warn_of_pieces(pieces: Sequence[Sequence[Document]], context: int) -> None:
    """Counts the texts that were split, and the pieces that teach nothing."""
    long = [group for group in pieces if len(group) > 1]
    dropped = [piece for group in pieces for piece in group if not piece.targets]
    said = []
    if long:
        said.append(
            f"{len(long)} of {len(pieces)} texts are longer than the context of "
            f"{context} tokens and were split into {sum(map(len, long))} pieces, first "
            f"{long[0][0].origin}; raise config.data.context (of tasks: "
            "config.tasks.context) to keep them whole"
        )
    if dropped:
        said.append(
            f"{len(dropped)} pieces hold nothing to learn and were dropped, first of "
            f"{dropped[0].origin}"
        )
    if said:
        warnings.warn(". ".join(said) + ".", stacklevel=3)


def encode(records: Sequence[Record], tokenizer: Any, context: int) -> list[Document]:
    """Records as documents of at most `context` tokens each, in order.

    Warns once, with counts, of texts split and of pieces dropped because nothing in
    them is learned, and once of answers that follow other words than the prompt for
    generation.

    Args:
      records: what to encode.
      tokenizer: a fast `transformers` tokenizer (its offsets are needed).
      context: tokens of a row, at least 2.

    Raises:
      ValueError: a context below 2, a slow tokenizer, a chat that the tokenizer's
        template cannot render, or nothing at all is left to learn.
    """
    if context < 2:
        raise ValueError(f"data.context={context} tokens; use 2 or more.")
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets; use the fast "
            "tokenizer (a directory with tokenizer.json)."
        )
    _warn_of_glue(records)
    others = prompts.OtherPrompts(tokenizer)
    documents = encode_whole(records, tokenizer, others)
    others.warn()
    pieces = [split(whole, context) for whole in documents]
    _warn_of_pieces(pieces, context)
    documents = [piece for group in pieces for piece in group if piece.targets]
    if not documents:
        raise ValueError(
            f"{len(records)} records hold no token to learn: texts of at least two "
            "tokens are needed."
        )
    return documents
