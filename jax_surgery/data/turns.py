# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: TRY004, a bad row is a ValueError whatever is wrong with it
"""The turns of a conversation, in the forms that data sets give them.

    {"messages": [{"role": "user", "content": "Who?"}, ...]}            as transformers
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}]}
    {"conversations": [{"from": "human", "value": "Who?"}, ...]}        as ShareGPT

What the assistant says is learned. What a tool returns is read, and so is an assistant's
turn that only calls tools. Fields that hold null count as left out, since data sets in
columns give every row every field.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

CHAT_ROLES = ("system", "user", "assistant", "tool")
# Fields beside role and content that chat templates read, and their types.
FURTHER = {"name": str, "tool_calls": list, "tool_call_id": str}
# ShareGPT's names of the roles.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


def hint(name: Any, names: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for a mistyped name, "" where none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def string(value: Any, name: str) -> str:
    """The value, where it is text that is not empty.

    Raises:
      ValueError: it is not.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    return value


def without_nulls(value: Any) -> Any:
    """The value, fields that hold null left out at any depth."""
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(element) for element in value]
    return value


def _content(value: Any, name: str) -> str:
    """Text, or the text of parts joined."""
    if not isinstance(value, list):
        return string(value, name)
    texts = []
    for number, part in enumerate(value, start=1):
        if isinstance(part, Mapping) and part.get("type", "text") != "text":
            raise ValueError(
                f"part {number} of {name} has type {part['type']!r}; only text can be "
                "learned"
            )
        if isinstance(part, Mapping) and set(part) - {"type"} != {"text"}:
            got = ", ".join(map(str, part)) or "nothing"
            raise ValueError(
                f"part {number} of {name} must have the fields type and text, got {got}"
            )
        text = part["text"] if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise ValueError(
                f"part {number} of {name} must be text, got {type(text).__name__}"
            )
        texts.append(text)
    return string("".join(texts), name)


def _renamed(message: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A turn of ShareGPT's form in the form of role and content."""
    if not {"from", "value"} <= set(message):
        return message
    speaker = message["from"]
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise ValueError(
            f"{name} is from {speaker!r}{hint(speaker, SPEAKERS)}; use one of "
            f"{', '.join(SPEAKERS)}"
        )
    rest = {k: v for k, v in message.items() if k not in ("from", "value")}
    return {"role": SPEAKERS[speaker], "content": message["value"], **rest}


def _turn(message: Any, name: str) -> tuple[str, str, dict[str, Any]]:
    """The role, the content and the further fields of a message."""
    if not isinstance(message, Mapping):
        raise ValueError(
            f"{name} must be an object with role and content, got "
            f"{type(message).__name__}"
        )
    message = dict(_renamed(message, name))
    # A turn that only calls tools; data sets in columns give null for what is not there.
    silent = message.get("role") == "assistant" and (
        "content" not in message or bool(message.get("tool_calls"))
    )
    if silent and message.get("content", "") in ("", []):
        message["content"] = ""
    if not message.get("tool_calls"):  # an empty list of calls is none
        message.pop("tool_calls", None)
    unknown = sorted(map(str, set(message) - {"role", "content"} - set(FURTHER)))
    if unknown or not {"role", "content"} <= set(message):
        raise ValueError(
            f"{name} must have the fields role and content (and may have "
            f"{', '.join(FURTHER)}), got {', '.join(map(str, message)) or 'nothing'}"
        )
    role = message.pop("role")
    if role not in CHAT_ROLES:
        raise ValueError(
            f"{name} has role {role!r}{hint(role, CHAT_ROLES)}; use one of "
            f"{', '.join(CHAT_ROLES)}"
        )
    content = message.pop("content")
    if not (silent and content == ""):
        content = _content(content, f"the content of {name}")
    for key, value in message.items():
        if not isinstance(value, FURTHER[key]):
            raise ValueError(
                f"{key} of {name} must be a {FURTHER[key].__name__}, got "
                f"{type(value).__name__}"
            )
    return role, content, message


def turns_of(
    value: Any,
) -> tuple[tuple[tuple[str, str], ...], tuple[dict[str, Any], ...]]:
    """The turns of a conversation: (role, content) of each, and its further fields.

    Args:
      value: a list of messages without nulls; or an object of lists, as data sets in
        columns give a sequence of objects.

    Raises:
      ValueError: says what is wrong with which message.
    """
    if isinstance(value, Mapping) and all(isinstance(v, list) for v in value.values()):
        lengths = {len(column) for column in value.values()}
        if len(lengths) == 1:
            rows = zip(*value.values(), strict=True)
            value = [without_nulls(dict(zip(value, row, strict=True))) for row in rows]
    if not isinstance(value, list | tuple):
        raise ValueError(
            "messages must be a list of objects with role and content, got "
            f"{type(value).__name__}"
        )
    turns = [_turn(turn, f"message {i}") for i, turn in enumerate(value, start=1)]
    if not any(role == "assistant" and content for role, content, _ in turns):
        raise ValueError("no assistant turn with content, so nothing to learn")
    further = tuple(more for _, _, more in turns)
    return (
        tuple((role, content) for role, content, _ in turns),
        further if any(further) else (),
    )
