# SPDX-License-Identifier: Apache-2.0
"""Records to token documents: which tokens there are, and which are learned."""

import dataclasses
import logging
import warnings
from typing import Any

import numpy as np

from jax_surgery.data.records import Record


@dataclasses.dataclass(frozen=True)
class Document:
    """A tokenised text, at most a context long.

    Attributes:
      tokens: int32 [n]; the first is never predicted.
      learned: bool [n]; whether a token is a target of learning (or unlearning).
      origin: the record's.
    """

    tokens: np.ndarray
    learned: np.ndarray
    origin: str


def _encode_pair(record: Record, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """bos + prompt + answer + eos; what ends in the answer is learned.

    A token that straddles the border counts as the answer's.
    """
    encoded = tokenizer(
        record.prompt + record.answer,
        add_special_tokens=False,
        return_offsets_mapping=True,
    )
    border = len(record.prompt)
    tokens = list(encoded["input_ids"])
    learned = [end > border for _, end in encoded["offset_mapping"]]
    if tokenizer.bos_token_id is not None:
        tokens, learned = [tokenizer.bos_token_id, *tokens], [False, *learned]
    if tokenizer.eos_token_id is not None:
        tokens, learned = [*tokens, tokenizer.eos_token_id], [*learned, True]
    return tokens, learned


def _render(messages: list[dict[str, str]], tokenizer: Any) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)[
        "input_ids"
    ]


def _encode_messages(record: Record, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """A conversation in the chat template; the assistant's turns are learned.

    Uses the template's generation marks where it has them. Otherwise a turn is what
    rendering it adds to the turns before it.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"{record.origin}: the tokenizer has no chat template, which messages "
            "need; give question and answer (or prompt and answer) instead."
        )
    messages = [{"role": r, "content": c} for r, c in record.messages]
    if "generation" in tokenizer.chat_template:
        encoded = tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        mask = encoded.get("assistant_masks")
        return list(encoded["input_ids"]), [bool(m) for m in mask]
    tokens = _render(messages, tokenizer)
    learned = [False] * len(tokens)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(
            messages[:index],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
        )["input_ids"]
        until = _render(messages[: index + 1], tokenizer)
        if tokens[: len(until)] != until or until[: len(before)] != before:
            raise ValueError(
                f"{record.origin}: the chat template renders a conversation's start "
                "differently when it goes on, so the assistant's tokens cannot be "
                "told apart; use a template with {% generation %} marks."
            )
        learned[len(before) : len(until)] = [True] * (len(until) - len(before))
    return tokens, learned


def encode(records: list[Record], tokenizer: Any, context: int) -> list[Document]:
    """Tokenises records; a text longer than `context` tokens is split.

    Warns once, with counts, of texts split and of pieces dropped because nothing in
    them is learned.

    Raises:
      ValueError: the context is too short, a record's messages cannot be rendered,
        or nothing at all is left to learn.
    """
    if context < 2:
        raise ValueError(f"data.context={context} tokens; use 2 or more.")
    documents, split, pieces, dropped = [], 0, 0, 0
    for record in records:
        encode_one = _encode_messages if record.messages else _encode_pair
        tokens, learned = encode_one(record, tokenizer)
        starts = range(0, len(tokens), context)
        if len(starts) > 1:
            split += 1
            pieces += len(starts)
        for start in starts:
            part = np.asarray(learned[start : start + context], bool)
            if not part[1:].any():
                dropped += 1
                continue
            ids = np.asarray(tokens[start : start + context], np.int32)
            documents.append(Document(ids, part, record.origin))
    if split:
        message = (
            f"{split} of {len(records)} texts are longer than the context of {context} "
            f"tokens and were split into {pieces} pieces"
            + (f", of which {dropped} hold nothing to learn" if dropped else "")
            + "; raise config.data.context to keep them whole."
        )
        warnings.warn(message, stacklevel=2)
        logging.getLogger(__name__).warning(message)
    if not documents:
        raise ValueError(
            f"{len(records)} records hold no token to learn: texts of at least two "
            "tokens are needed."
        )
    return documents
