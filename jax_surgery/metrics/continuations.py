# SPDX-License-Identifier: Apache-2.0
"""Greedy continuations of prompts, which are read as they stand."""

from collections.abc import Sequence

from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import encode_whole
from jax_surgery.models.generate import greedy_generate
from jax_surgery.models.model import Model
from jax_surgery.parallel import progress


def prompt_tokens(record: Record, model: Model) -> list[int]:
    """The tokens of a record's prompt.

    A prompt of plain text is encoded by itself, so that a space at its end stays one.
    """
    if record.messages or record.question:
        return encode_whole([record], model.tokenizer)[0].prompt.tolist()
    bos = model.tokenizer.bos_token
    begins = bool(bos) and not record.prompt.startswith(bos)
    ids = model.tokenizer(record.prompt, add_special_tokens=False)["input_ids"]
    return [*([model.tokenizer.bos_token_id] if begins else []), *ids]


def cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of some strings."""
    for stop in stops:
        text = text.split(stop)[0]
    return text


def continuations(
    model: Model, probe: Probe, new_tokens: int, metric: str
) -> tuple[str, ...]:
    """What a model says after each record's prompt.

    Args:
      new_tokens: of each, at most.
      metric: that needs them, for errors.

    Raises:
      ValueError: there are no records, or one has no prompt.
    """
    if not probe.records:
        raise ValueError(
            f"the probe {probe.group!r} has no records, to whose prompts {metric} needs "
            "answers; name a metric of questions, such as multiple_choice."
        )
    asked = [prompt_tokens(record, model) for record in probe.records]
    for record, ids in zip(probe.records, asked, strict=True):
        if not ids:
            raise ValueError(
                f"{record.origin} has no prompt, after which {metric} needs an answer; "
                "name a metric of text, such as nats_per_token."
            )
    return greedy_replies(model, asked, new_tokens)


def greedy_replies(
    model: Model, prompts: list[list[int]], new_tokens: int
) -> tuple[str, ...]:
    """What a model says after each prompt, without special tokens.

    Args:
      prompts: token ids.
      new_tokens: of each reply, at most.
    """
    with progress.Bar(title="replying", unit="reply", total=len(prompts)) as bar:
        found = greedy_generate(
            model.params,
            model.config,
            prompts,
            new_tokens,
            eos_id=model.stops,
            compute=model.compute,
            watch=bar.update,
        )
    decode = model.tokenizer.decode
    return tuple(decode(ids, skip_special_tokens=True) for ids in found)
