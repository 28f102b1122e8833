# SPDX-License-Identifier: Apache-2.0
"""Pairs of a text to unlearn and an alternative answer to the same prompt.

A record says its `alternative`; where it does not, a refusal is drawn from `REFUSALS`.
Several alternatives of one answer are several records.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jax_surgery.data.forms import Record
from jax_surgery.data.tokens import Document, encode

# Where alternatives come from: "any": a record's own, or a refusal; "given": its own, which
# it must have; "refusals": a refusal, whatever the record has.
Alternatives = Literal["any", "given", "refusals"]

REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I have no information about that.",
    "I can't answer that question.",
    "That is not something I know.",
    "I'm afraid I don't have the answer.",
    "I'm unable to say.",
    "I don't have any details on this.",
    "I can't recall anything about that.",
    "This is beyond what I know.",
    "I couldn't tell you.",
    "I have nothing to say on this subject.",
    "Unfortunately, I don't know the answer to that.",
    "I'm not familiar with this topic.",
    "I'm sorry, but I can't help with that.",
    "There is nothing I can tell you about this.",
)


def alternatives(
    records: Sequence[Record], seed: int, source: Alternatives = "any"
) -> tuple[list[Record], int]:
    """Records that give the alternative answers, and how many of them are refusals.

    Args:
      records: what is to be unlearned.
      seed: of the refusals that are drawn.
      source: of the alternatives.

    Raises:
      ValueError: a record without a prompt, whose answer cannot be replaced, or without
        the alternative that it must have.
    """
    rng = np.random.default_rng(seed)
    found, drawn = [], 0
    for record in records:
        refusal = REFUSALS[rng.integers(len(REFUSALS))]
        own = "" if source == "refusals" else record.alternative
        if source == "given" and not own:
            raise ValueError(
                f"{record.origin}: the record names no alternative, to which the method "
                "moves its answer; give the field alternative beside the answer, or use "
                "config.method=idkpo, which refuses."
            )
        if record.messages:
            *before, (role, _) = record.messages
            if role != "assistant":
                raise ValueError(
                    f"{record.origin}: a conversation must end with an assistant "
                    "message, which the alternative answer replaces."
                )
            turns = (*before, (role, refusal))
            found.append(dataclasses.replace(record, messages=turns))
        elif not record.prompt:
            raise ValueError(
                f"{record.origin}: a text without a prompt has no alternative answer; "
                "methods of pairs need records of prompt and answer, question and "
                "answer, or messages."
            )
        else:
            answer = own or f" {refusal}"
            found.append(dataclasses.replace(record, answer=answer))
        drawn += not own
    return found, drawn


def encode_pairs(
    records: Sequence[Record],
    tokenizer: Any,
    context: int,
    seed: int,
    source: Alternatives = "any",
) -> list[Document]:
    """Documents in pairs: each record's own, then its alternative.

    Says how many alternatives are refusals from this package, where others could be.

    Raises:
      ValueError: see `alternatives` and `tokens.encode`; or a text that is longer than
        the context, since pieces of it have no alternative.
    """
    others, drawn = alternatives(records, seed, source)
    if drawn and source != "refusals":
        print(
            f"{drawn} of {len(records)} records to unlearn name no alternative answer; "
            "packaged refusals are used for them."
        )
    own, other = (encode(part, tokenizer, context) for part in (records, others))
    for documents, part in ((own, records), (other, others)):
        if len(documents) != len(part):
            raise ValueError(
                f"{len(part)} texts became {len(documents)} documents: texts that are "
                f"longer than the context of {context} tokens, or that hold nothing to "
                "learn, have no pairs; raise config.data.context or leave them out."
            )
    return [document for pair in zip(own, other, strict=True) for document in pair]
