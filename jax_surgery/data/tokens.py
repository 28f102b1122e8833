# SPDX-License-Identifier: Apache-2.0
"""Records as tokens, each token marked as learned or not.

- A text, a prompt and answer, or a plainly rendered question begins with the
  tokenizer's bos and ends with its eos (where it has them); the eos belongs to what is
  learned, so that the model learns to stop. A chat template writes its own.
- A token that straddles the border between prompt and answer is learned if it ends in
  the answer.
- A text longer than the context is split into pieces that overlap by one token: each
  later piece begins with the last token of the one before, unlearned there, so that
  every learned token is a target exactly once. Pieces with no target are dropped.
  One warning counts both.
"""

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jax_surgery.data import chat
from jax_surgery.data.forms import QUESTION_PROMPT, Record

_BATCH = 1024  # texts given to the tokenizer at once


@dataclasses.dataclass(frozen=True, eq=False)
class Document:
    """Tokens that are packed together, at most a context of them.

    Attributes:
      tokens: int32 [n].
      learned: bool [n]; the first token is never a target, learned or not.
      origin: of its record.
    """

    tokens: np.ndarray
    learned: np.ndarray
    origin: str

    @property
    def targets(self) -> int:
        """How many of its tokens are learned, the first one left out."""
        return int(self.learned[1:].sum())


def _messages_of(record: Record) -> list[dict[str, Any]]:
    answered = (("user", record.question), ("assistant", record.answer.strip()))
    turns = record.messages or answered
    further = record.further or ({},) * len(turns)
    return [
        {"role": role, "content": content, **more}
        for (role, content), more in zip(turns, further, strict=True)
    ]


def render_prompt(question: str, tokenizer: Any) -> str:
    """The text after which the model's answer to `question` begins.

    A chat prompt where the tokenizer has a chat template, else
    "Question: {question}\\nAnswer:" after the tokenizer's bos. Special tokens are
    written out either way, so encode it with `add_special_tokens=False`.
    """
    if chat.has_template(tokenizer):
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
        )
    return (tokenizer.bos_token or "") + QUESTION_PROMPT.format(question=question)


def _render(record: Record, tokenizer: Any) -> tuple[str, Sequence[chat.Span], bool]:
    """A record's text, what of it is learned, whether bos and eos are still missing."""
    asks = bool(record.question) and chat.has_template(tokenizer)
    if record.messages or asks:
        text, spans = chat.render(tokenizer, _messages_of(record), record.origin)
        return text, spans, False
    text = record.prompt + record.answer
    return text, [(len(record.prompt), len(text))], True


def _learned(offsets: Sequence[chat.Span], spans: Sequence[chat.Span]) -> np.ndarray:
    """Which tokens end inside a span; a token ends at its last character."""
    ends = np.asarray([end for _, end in offsets], np.int64)
    learned = np.zeros(len(ends), bool)
    for start, stop in spans:
        learned |= (start < ends) & (ends <= stop)
    return learned


def _encode_whole(records: Sequence[Record], tokenizer: Any) -> list[Document]:
    """Records as documents of any length."""
    rendered = [_render(record, tokenizer) for record in records]
    encoded = tokenizer(
        [text for text, _, _ in rendered],
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,  # longer texts are split, and counted, here
    )
    bos, eos = (
        [] if token is None else [token]
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    )
    documents = []
    for record, (_, spans, bare), ids, offsets in zip(
        records,
        rendered,
        encoded["input_ids"],
        encoded["offset_mapping"],
        strict=True,
    ):
        learned = _learned(offsets, spans)
        if bare:
            ids = [*bos, *ids, *eos]
            learned = np.pad(learned, (len(bos), 0))
            learned = np.pad(learned, (0, len(eos)), constant_values=True)
        tokens = np.asarray(ids, np.int32)
        documents.append(Document(tokens, learned, record.origin))
    return documents


def without_end(document: Document, eos: int | None) -> Document:
    """The document, its eos read but not learned: that a text ends is no knowledge.

    Left as it is where nothing else is learned.
    """
    learned = document.learned.copy()
    if document.tokens[-1] == eos and learned[1:].sum() > 1:
        learned[-1] = False
    return Document(document.tokens, learned, document.origin)


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
        pieces.append(Document(document.tokens[start:stop], learned, document.origin))
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
    them is learned.

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
    pieces = [
        split(document, context)
        for start in range(0, len(records), _BATCH)
        for document in _encode_whole(records[start : start + _BATCH], tokenizer)
    ]
    _warn_of_pieces(pieces, context)
    documents = [piece for group in pieces for piece in group if piece.targets]
    if not documents:
        raise ValueError(
            f"{len(records)} records hold no token to learn: texts of at least two "
            "tokens are needed."
        )
    return documents
