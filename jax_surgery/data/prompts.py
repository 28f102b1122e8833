# SPDX-License-Identifier: Apache-2.0
"""A record as text: the one place that renders prompts.

Training, scores, generation and reports all read what stands here, so a model is asked
for an answer with the very tokens after which it learned it.

- A text, a prompt and answer, or a plainly rendered question gets the tokenizer's bos and
  eos, where it has them and the record does not write them itself. The eos is learned,
  so that the model learns to stop.
- A chat template writes its own. A record whose prompt is a chat that was rendered before
  is completed as the template would complete it.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from jax_surgery.data import chat, template_marks
from jax_surgery.data.forms import Record

# Whether multiple-choice questions are asked in the chat template: where the model's
# tokenizer has one, in any case, or never.
AsChat = Literal["auto", "always", "never"]
SHOWN = 30  # characters of a text that a warning quotes


class Span(NamedTuple):
    """What is learned, in characters.

    Attributes:
      start: its first character.
      end: where what the record says ends.
      stop: where what is learned ends, the end of the turn included.
    """

    start: int
    end: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A record as text.

    Attributes:
      text: special tokens are written out, but for those below.
      spans: what is learned, in order.
      bos, eos: whether the tokenizer's are still to be put before and behind it.
      asked: whether all that is learned follows the template's prompt for generation.
    """

    text: str
    spans: tuple[Span, ...]
    bos: bool = False
    eos: bool = False
    asked: bool = True


def _messages_of(record: Record) -> list[dict[str, Any]]:
    answered = (("user", record.question), ("assistant", record.answer.strip()))
    turns = record.messages or answered
    further = record.further or ({},) * len(turns)
    return [
        {"role": role, "content": content, **more}
        for (role, content), more in zip(turns, further, strict=True)
    ]


def render(record: Record, tokenizer: Any) -> Rendered:
    """A record as text, with what is learned of it.

    Raises:
      ValueError: a chat that the tokenizer's template cannot render whole (see
        `chat.render`).
    """
    asks = bool(record.question) and template_marks.has_template(tokenizer)
    if record.messages or asks:
        text, turns = chat.render(tokenizer, _messages_of(record), record.origin)
        spans = tuple(Span(turn.start, turn.end, turn.stop) for turn in turns)
        return Rendered(text, spans, asked=all(turn.asked for turn in turns))
    return _plain(record, tokenizer)


def _plain(record: Record, tokenizer: Any) -> Rendered:
    """A record of text without a template, which may be a chat rendered before."""
    start = len(record.prompt)
    text = record.prompt + record.answer
    marks = template_marks.marks_of(tokenizer)
    turn_ends = marks.closes if marks else ""
    bos = tokenizer.bos_token
    starts = bool(bos) and not text.startswith(bos)
    if marks and marks.is_chat(text):
        starts = False
    # White space behind an end that the record writes itself is read, not learned.
    said = text.rstrip()
    for end in filter(None, (tokenizer.eos_token, turn_ends)):
        if said.endswith(end) and len(said) - len(end) > start:
            spans = (Span(start, len(said) - len(end), len(said)),)
            return Rendered(text, spans, bos=starts)
    if turn_ends and marks and marks.is_prompt(record.prompt):
        spans = (Span(start, len(text), len(text) + len(turn_ends)),)
        return Rendered(text + turn_ends, spans, bos=starts)
    spans = (Span(start, len(text), len(text)),)
    return Rendered(text, spans, bos=starts, eos=bool(tokenizer.eos_token))


def ask(prompt: str, option: str, origin: str, tokenizer: Any, as_chat: bool) -> Record:
    """A question with one of its options, as a record.

    Args:
      prompt, option: the option follows the prompt as it stands; in a chat the prompt is
        the user's message, and the option the assistant's.
      origin: of the question, for errors.
      as_chat: whether it is a chat, where the prompt is not one already.
    """
    marks = template_marks.marks_of(tokenizer)
    if not as_chat or (marks and marks.is_chat(prompt)):
        return Record(prompt, option, (), origin)
    said = (("user", prompt.strip()), ("assistant", option.strip()))
    return Record("", "", said, origin)


def asks_as_chat(tokenizer: Any, as_chat: AsChat) -> bool:
    """Whether questions are asked in the chat template.

    "auto" asks so where the tokenizer has a template; the one that this package gives
    to tokenizers which it trains does not count (see `template_marks.is_stand_in`).

    Raises:
      ValueError: "always", and there is no template.
    """
    there = template_marks.has_template(tokenizer)
    if as_chat == "always" and not there:
        raise ValueError(
            "config.data.chat='always' (of tasks: config.tasks.chat): the model's "
            "tokenizer has no chat template to ask questions in; use 'auto' or 'never', "
            "or add a chat_template.jinja."
        )
    if as_chat == "auto":
        return there and not template_marks.is_stand_in(tokenizer)
    return as_chat == "always"


class OtherPrompts:
    """Counts learned answers that follow other words than the prompt for generation."""

    def __init__(self, tokenizer: Any):
        """Counts for a tokenizer with a chat template."""
        self._tokenizer, self._number, self._first = tokenizer, 0, ""

    def count(self, records: Sequence[Record], rendered: Sequence[Rendered]) -> None:
        """Adds some records."""
        for record, one in zip(records, rendered, strict=True):
            self._number += not one.asked
            if not (one.asked or self._first):
                start = one.spans[0].start
                before = one.text[max(0, start - SHOWN) : start]
                self._first = f"{before!r} ({record.origin})"

    def warn(self) -> None:
        """Says how many there are, where there are any."""
        marks = template_marks.marks_of(self._tokenizer)
        if self._number:
            asked = f", {marks.prompt[-SHOWN:]!r}" if marks else ""
            warnings.warn(
                f"{self._number} answers are learned behind other words than the prompt "
                f"for generation of the tokenizer's chat template{asked}: as the "
                f"template writes answers that are there, first {self._first}. Programs "
                "that ask with the prompt for generation ask in another way.",
                stacklevel=3,
            )
