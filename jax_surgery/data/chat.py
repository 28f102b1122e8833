# SPDX-License-Identifier: Apache-2.0
"""Chats as text through the tokenizer's chat template, and where the assistant speaks.

The spans of the assistant come from the template's `{% generation %}` blocks where it
has them; else from rendering the chat up to each assistant message, with and without
it, and checking that each rendering begins with the one before it.
"""

import itertools
import re
from typing import Any

Span = tuple[int, int]
Messages = list[dict[str, Any]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer renders chats."""
    return bool(getattr(tokenizer, "chat_template", None))


def _render(tokenizer: Any, messages: Messages, prompt: bool, origin: str) -> str:
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:  # templates raise whatever they like
        roles = ", ".join(message["role"] for message in messages) or "no messages"
        raise ValueError(
            f"{origin}: the tokenizer's chat template refused the chat ({roles}): "
            f"{error}"
        ) from error


def _spans_by_prefix(
    tokenizer: Any, messages: Messages, text: str, origin: str
) -> list[Span]:
    """Spans of a template without generation blocks: its closing token included."""
    spans, known = [], ""
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or not message["content"]:
            continue  # a turn that only calls tools is read
        before = _render(tokenizer, messages[:i], True, origin) if i else ""
        after = _render(tokenizer, messages[: i + 1], False, origin)
        chain = (known, before, after, text)
        if not all(b.startswith(a) for a, b in itertools.pairwise(chain)):
            raise ValueError(
                f"{origin}: the tokenizer's chat template renders message {i + 1} in "
                "another way once more messages follow, so the assistant's text "
                "cannot be found; mark it in the template with "
                "{% generation %}...{% endgeneration %}, or split the chat into "
                "records that end with one assistant message."
            )
        spans.append((len(before), len(after)))
        known = after
    return spans


def render(tokenizer: Any, messages: Messages, origin: str) -> tuple[str, list[Span]]:
    """A chat as text, and the character spans that the assistant says.

    The text is complete: the template writes the special tokens, the one that closes
    the assistant's turn among them.

    Args:
      tokenizer: a `transformers` tokenizer with a chat template.
      messages: of {"role", "content"}.
      origin: of the record, for errors.

    Raises:
      ValueError: no chat template, a chat that it refuses, or one in which the
        assistant's turns cannot be found.
    """
    if not has_template(tokenizer):
        raise ValueError(
            f"{origin}: the record has messages but the tokenizer has no chat template; "
            "set tokenizer.chat_template, or give prompt and answer instead."
        )
    text = _render(tokenizer, messages, False, origin)
    template = tokenizer.get_chat_template()
    if not _GENERATION.search(template):
        return text, _spans_by_prefix(tokenizer, messages, text, origin)
    from transformers.utils import chat_template_utils

    # apply_chat_template returns these spans as a token mask, in which a token whose
    # offsets leave out its leading space is lost; so they are taken as characters.
    texts, spans = chat_template_utils.render_jinja_template(
        conversations=[messages],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    if texts[0] != text or not spans[0]:
        raise ValueError(
            f"{origin}: the generation blocks of the tokenizer's chat template mark no "
            "text of this chat; put them around what the assistant says."
        )
    return text, [(int(start), int(stop)) for start, stop in spans[0]]
