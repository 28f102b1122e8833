# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer's chat template writes around messages, found by rendering marks."""

import dataclasses
import functools
import os
import re
from typing import Any

from jax_surgery.data.bpe import CHAT_TEMPLATE

Messages = list[dict[str, Any]]

# Stands in the place of a message, in plain letters that no template rewrites.
MARK = "Qx7MarkedMessage7xQ"
# Templates of Llama 3 write the day's date where they are given none, and tomorrow's tokens
# would be others: they get the date that Llama 3.1's template itself falls back to.
CONSTANTS = {"date_string": "26 Jul 2024"}


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer renders chats."""
    return bool(getattr(tokenizer, "chat_template", None))


def is_stand_in(tokenizer: Any) -> bool:
    """Whether the template is the one that this package gives to tokenizers which it
    trains: their models have read plain text, and need not know it."""
    return getattr(tokenizer, "chat_template", None) == CHAT_TEMPLATE


def apply(tokenizer: Any, messages: Messages, prompt: bool = False) -> str:
    """The messages as the template writes them, which may raise whatever it likes.

    Args:
      prompt: whether the prompt for generation follows.
    """
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompt, **CONSTANTS
    )


@functools.lru_cache(maxsize=8)
def _special(tokenizer: Any, size: int) -> re.Pattern[str]:
    """The tokenizer's special and added tokens, white space left out."""
    del size  # tokens may be added later
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    found = {t for t in [*added, *tokenizer.all_special_tokens] if t.strip()}
    ordered = sorted(found, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def closing(tokenizer: Any, tail: str) -> str:
    """What of a text behind a message closes the turn.

    That is all up to the first special token, this one included; without one all but
    the white space at its end.
    """
    found = _special(tokenizer, len(tokenizer)).search(tail)
    return tail[: found.end()] if found else tail.rstrip()


@dataclasses.dataclass(frozen=True)
class Marks:
    """What a template writes.

    Attributes:
      start: at the start of every chat.
      opens: before what a user says.
      asks: between that and the assistant's answer; the last answer of a chat may have
        other words before it than those before.
      prompt: after what a user says where the assistant is to answer; mostly as `asks`.
      closes: of what follows an answer, up to the token that closes the turn.
      follows: between an answer and what the user says next.
      system: (before, after) a system message, where it lies behind `opens`; else None.
    """

    start: str
    opens: str
    asks: tuple[str, ...]
    prompt: str
    closes: str
    follows: str
    system: tuple[str, str] | None

    def is_chat(self, text: str) -> bool:
        """Whether a text is a chat, or the start of one, that the template has rendered."""
        return bool(self.start) and text.startswith(self.start) and self.opens in text

    def is_prompt(self, text: str) -> bool:
        """Whether it is such a chat, in which the assistant is to speak next."""
        return self.is_chat(text) and text.endswith((*self.asks, self.prompt))

    def said(self, text: str) -> list[str]:
        """What user and assistant say in a rendered chat, one after another."""
        said = text[text.index(self.opens) + len(self.opens) :]
        if self.system and said.startswith(self.system[0]):
            said = said.partition(self.system[1])[2]
        ways = {*self.asks, self.prompt, self.follows}
        ordered = sorted(ways, key=len, reverse=True)
        parts = re.split("|".join(map(re.escape, ordered)), said)
        last = parts[-1].rstrip()
        return [*parts[:-1], last.removesuffix(self.closes)]


def marks_of(tokenizer: Any) -> Marks | None:
    """What the tokenizer's template writes; None where there is none, or where it does
    not write the same around every message."""
    if not has_template(tokenizer):
        return None
    return _marks(tokenizer, repr(tokenizer.chat_template))


def _between(text: str, marks: list[str]) -> list[str]:
    """The parts of a text that lie between marks, which occur once and in order."""
    parts = re.split("|".join(marks), text)
    if re.findall("|".join(marks), text) != marks:
        raise ValueError("the template does not write every message once")
    return parts


def _common_end(tokenizer: Any, *texts: str) -> str:
    """The end that texts have in common, of whole special tokens."""
    end = os.path.commonprefix([text[::-1] for text in texts])[::-1]
    for text in texts:
        place = len(text) - len(end)
        for token in _special(tokenizer, len(tokenizer)).finditer(text):
            if token.start() < place < token.end():
                place = token.end()
        end = text[place:]
    return end


def _common_start(tokenizer: Any, *texts: str) -> str:
    """The start that texts have in common, of whole special tokens."""
    start = os.path.commonprefix(texts)
    for text in texts:
        for token in _special(tokenizer, len(tokenizer)).finditer(text):
            if token.start() < len(start) < token.end():
                start = start[: token.start()]
    return start


def _chat(roles: str) -> tuple[Messages, list[str]]:
    """A chat of marks; of each message the first letter of its role is given."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    marks = [f"{MARK}{number}" for number in range(len(roles))]
    messages = [
        {"role": names[letter], "content": mark}
        for letter, mark in zip(roles, marks, strict=True)
    ]
    return messages, marks


@functools.lru_cache(maxsize=8)
def _marks(tokenizer: Any, template: str) -> Marks | None:
    del template  # that of a tokenizer may be set anew

    def parts(roles: str, prompt: bool = False) -> list[str]:
        messages, marks = _chat(roles)
        return _between(apply(tokenizer, messages, prompt), marks)

    try:
        begins, asks, follows, again, tail = parts("uaua")
        prompt = parts("u", True)[1]
    except Exception:  # noqa: BLE001, templates raise whatever they like
        return None
    opens = _common_end(tokenizer, begins, follows)
    start, system = begins, None
    try:
        first, after, _, _ = parts("sua")
    except Exception:  # noqa: BLE001, many templates take no system message
        first = begins
    else:
        start = _common_start(tokenizer, begins, first)
        within = first[first.rindex(opens) + len(opens) :] if opens in first else ""
        system = (within, after) if within else None
    if not (opens and asks and again and prompt and follows):
        return None
    closes = closing(tokenizer, tail)
    return Marks(start, opens, (again, asks), prompt, closes, follows, system)


def end_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end what is said: eos, and the one that closes the assistant's turn
    in the chat template."""
    found = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    marks = marks_of(tokenizer)
    if marks and marks.closes:
        ids = tokenizer(marks.closes, add_special_tokens=False)["input_ids"]
        special = _special(tokenizer, len(tokenizer))
        if special.fullmatch(tokenizer.decode(ids[-1:])):
            found.append(int(ids[-1]))
    return tuple(sorted(set(found)))
