# SPDX-License-Identifier: Apache-2.0
"""Chats as text through the tokenizer's chat template, and where the assistant speaks.

A template may trim a message, drop part of it, and write words of its own around it. So
each assistant message is sought in the rendering: the chat is rendered again with a mark
in its place, which shows what the template writes before and after it, and what stands
there instead of the mark must be the message, white space aside. Learned is the message
and the token that closes the turn, and nothing beyond. `{% generation %}` blocks of a
template say more closely what the assistant says, and are checked in the same way.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax_surgery.data import template_marks
from jax_surgery.data.template_marks import MARK, Messages, apply, has_template

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
SHOWN = 60  # characters of a text that an error quotes


class Turn(NamedTuple):
    """Where an assistant message stands in a rendered chat, in characters.

    Attributes:
      start: of what is learned: the message, and the white space before it that the
        template's prompt for generation leaves to the model.
      end: of the message.
      stop: of what is learned: behind the token that closes the turn, where there is one.
      asked: whether the prompt for generation stands before it, or words of another kind.
    """

    start: int
    end: int
    stop: int
    asked: bool


def _render(tokenizer: Any, messages: Messages, origin: str) -> str:
    try:
        return apply(tokenizer, messages)
    except Exception as error:  # templates raise whatever they like
        roles = ", ".join(message["role"] for message in messages) or "no messages"
        raise ValueError(
            f"{origin}: the tokenizer's chat template refused the chat ({roles}): "
            f"{error}"
        ) from error


def _quoted(text: str) -> str:
    """The text as an error quotes it, its middle left out where it is long."""
    if len(text) <= SHOWN:
        return repr(text)
    return f"{text[: SHOWN // 2]!r}...{text[-SHOWN // 2 :]!r}"


def _match_back(text: str, stop: int, content: str) -> tuple[int, str]:
    """Where `content` begins that ends at `stop` in a text, white space aside.

    Returns:
      the place of its first character, and what of its start is not there: "" where
      all of it is.
    """
    here, plain = text[:stop].rstrip(), content.strip()
    if here.endswith(plain):
        return len(here) - len(plain), ""
    place, left = stop, len(content)
    while True:
        left = len(content[:left].rstrip())
        near = len(text[:place].rstrip())
        if not left or not near or text[near - 1] != content[left - 1]:
            return place, content[:left].strip()
        # A run of the same characters, up to white space, is taken at once.
        word = content[:left].split()[-1]
        same = 1
        while same < min(len(word), near) and text[near - 1 - same] == word[-1 - same]:
            same += 1
        place, left = near - same, left - same


def _turn(
    tokenizer: Any, messages: Messages, number: int, text: str, origin: str
) -> Turn:
    """Where message `number` (from 0) stands in the text of the whole chat.

    Raises:
      ValueError: it cannot be found there, or not all of it is there.
    """
    before, message = messages[:number], messages[number]
    last = number + 1 == len(messages)
    alone = text if last else _render(tokenizer, messages[: number + 1], origin)
    marked = [*before, message | {"content": MARK}]
    head, there, tail = _render(tokenizer, marked, origin).partition(MARK)
    end = len(alone) - len(tail)
    if not there or not alone.endswith(tail):
        raise ValueError(
            f"{origin}: the tokenizer's chat template does not write message "
            f"{number + 1} as it stands, so what the assistant says cannot be found; "
            "give the record as prompt and answer, as the model reads and writes it."
        )
    first, dropped = _match_back(alone, end, message["content"])
    if dropped:
        raise ValueError(
            f"{origin}: the tokenizer's chat template drops {_quoted(dropped)} from "
            f"message {number + 1}, so it would be in no token; give the record as "
            "prompt and answer, as the model reads and writes it, or change the "
            "template (chat_template.jinja) so that it keeps the whole message."
        )
    if not text.startswith(alone[:end]):
        raise ValueError(
            f"{origin}: the tokenizer's chat template renders message {number + 1} in "
            "another way once more messages follow, so the model would learn what it "
            "is never asked; split the chat into records that end with one assistant "
            "message."
        )
    asked = _prompt(tokenizer, before) if before else head
    gap = text[len(asked) : first] if text.startswith(asked) else "other words"
    stop = end + len(template_marks.closing(tokenizer, alone[end:]))
    # Calls of tools stand between a message and the end of its turn, and some templates
    # close the last turn alone.
    if message.get("tool_calls") or not text.startswith(alone[end:stop], end):
        stop = end
    start = first if gap.strip() or len(asked) > first else len(asked)
    return Turn(start, end, stop, not gap.strip())


def _prompt(tokenizer: Any, messages: Messages) -> str:
    """The chat with the prompt for generation; "" where the template refuses it."""
    try:
        return apply(tokenizer, messages, True)
    except Exception:  # noqa: BLE001, templates raise whatever they like
        return ""


def _blocks(
    tokenizer: Any, messages: Messages, text: str, origin: str
) -> list[tuple[int, int]]:
    """The template's generation blocks, in characters of the text."""
    from transformers.utils import chat_template_utils

    # apply_chat_template returns these spans as a token mask, in which a token whose
    # offsets leave out its leading space is lost; so they are taken as characters.
    texts, spans = chat_template_utils.render_jinja_template(
        conversations=[messages],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
        **template_marks.CONSTANTS,
    )
    if texts[0] != text or not spans[0]:
        raise ValueError(
            f"{origin}: the generation blocks of the tokenizer's chat template mark no "
            "text of this chat; put them around what the assistant says."
        )
    return [(int(start), int(stop)) for start, stop in spans[0]]


def _of_spoken(
    blocks: Sequence[tuple[int, int]], spoken: Sequence[bool], turns: Sequence[Turn]
) -> list[tuple[int, int]]:
    """The blocks without those of messages that say nothing, such as calls of tools
    alone, where every message of the assistant's has its block.

    Args:
      spoken: of each message of the assistant's whether it says anything.
    """
    if len(blocks) != len(spoken):
        return list(blocks)
    return [
        (start, stop)
        for (start, stop), says in zip(blocks, spoken, strict=True)
        if says or any(start < turn.end and turn.start < stop for turn in turns)
    ]


def _within(
    turns: Sequence[Turn],
    blocks: Sequence[tuple[int, int]],
    others: Sequence[str],
    text: str,
    origin: str,
) -> list[Turn]:
    """The turns as generation blocks mark them; a turn without a block is left out.

    Args:
      others: what is said by others than the assistant.

    Raises:
      ValueError: a block holds no message of the assistant's, a part of one, or what
        somebody else says.
    """
    found = []
    for start, stop in blocks:
        own = [t for t in turns if start < t.end and t.start < stop]
        more = text[start:stop] if not own else text[start : own[0].start]
        said = not own or any(len(o) > 1 and o in more for o in others)
        if said or len(own) > 1 or stop < own[0].end or _cuts(text, start, own[0]):
            raise ValueError(
                f"{origin}: a generation block of the tokenizer's chat template marks "
                f"{_quoted(text[start:stop])}, which is not one message of the "
                "assistant; put the blocks around what the assistant says."
            )
        own = own[0]
        found.append(own._replace(start=start, stop=min(stop, own.stop)))
    return found


def _cuts(text: str, start: int, turn: Turn) -> bool:
    """Whether a block that begins at `start` leaves out some of a message."""
    return start > turn.start and bool(text[turn.start : start].strip())


def render(tokenizer: Any, messages: Messages, origin: str) -> tuple[str, list[Turn]]:
    """A chat as text, and where the assistant speaks.

    The text is complete: the template writes the special tokens, the one that closes
    the assistant's turn among them.

    Args:
      tokenizer: a `transformers` tokenizer with a chat template.
      messages: of {"role", "content"}; an assistant message without content is read and
        not learned.
      origin: of the record, for errors.

    Raises:
      ValueError: no chat template, a chat that it refuses, or one in which the
        assistant's messages cannot be found whole.
    """
    if not has_template(tokenizer):
        raise ValueError(
            f"{origin}: the record has messages but the tokenizer has no chat template; "
            "set tokenizer.chat_template, or give prompt and answer instead."
        )
    text = _render(tokenizer, messages, origin)
    marked = bool(_GENERATION.search(tokenizer.get_chat_template()))
    blocks = _blocks(tokenizer, messages, text, origin) if marked else []
    turns = [
        _turn(tokenizer, messages, number, text, origin)
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and message["content"].strip()
    ]
    if not marked:
        return text, turns
    others = [m["content"].strip() for m in messages if m["role"] != "assistant"]
    spoken = [bool(m["content"].strip()) for m in messages if m["role"] == "assistant"]
    blocks = _of_spoken(blocks, spoken, turns)
    return text, _within(turns, blocks, others, text, origin)
