# SPDX-License-Identifier: Apache-2.0
"""Share of prompts of which at least one of several sampled answers says what is right.

A model that no longer says an answer by greedy decoding may still give it a probability
from which some of many samples have it (Scholten et al. 2024, arXiv 2410.03523; Reisizadeh
et al. 2025, arXiv 2502.19301). A model that never knew says some right answers too, by luck;
what it would say is how often the samples say wrong answers of the same kind: the other
options of a question, or the answers to other prompts of the probe.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jax_surgery.data import prompts
from jax_surgery.data.probes import Probe
from jax_surgery.data.same_fact import plain
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import Document, encode_whole, up_to_end
from jax_surgery.metrics import multiple_choice, replies
from jax_surgery.metrics.base import Each, Estimate, Metric
from jax_surgery.metrics.intervals import wilson_interval
from jax_surgery.models.generate import sampled_generate
from jax_surgery.models.model import Model
from jax_surgery.models.sampling import Sampling

LENGTHS = 8  # tokens; answers are made in lengths of multiples
MARGIN = 2  # tokens that an answer may be longer than the longest right one
MOST_NEW = 64  # tokens of an answer
OTHERS = 16  # answers to other prompts that are sought as wrong ones, at most


class Asked(NamedTuple):
    """A prompt, its right answer, and wrong ones of the same kind."""

    tokens: list[int]
    right: str
    wrong: tuple[str, ...]
    length: int  # tokens of the longest of these


@dataclasses.dataclass(frozen=True)
class Said:
    """What the samples of each prompt say.

    Attributes:
      right: whether one of them says the right answer, bool [prompts].
      wrong: share of wrong answers that one of them says, [prompts]; NaN without any.
    """

    right: np.ndarray
    wrong: np.ndarray


def _of_questions(model: Model, probe: Probe) -> list[Asked]:
    as_chat = prompts.asks_as_chat(model.tokenizer, probe.chat)
    encoded = iter(
        multiple_choice.encode_options(probe.questions, model.tokenizer, as_chat)
    )
    found = []
    for question in probe.questions:
        documents = [next(encoded) for _ in question.options]
        options = [option.strip() for option in question.options]
        right = options.pop(question.answer)
        found.append(_asked(documents, right, options))
    return found


def _of_records(model: Model, probe: Probe) -> list[Asked]:
    ends = end_tokens(model.tokenizer)
    encoded = encode_whole(probe.records, model.tokenizer)
    documents = [up_to_end(document, ends) for document in encoded]
    answers = [record.said.strip() for record in probe.records]
    rng, found = np.random.default_rng(0), []
    for place, (document, right) in enumerate(zip(documents, answers, strict=True)):
        drawn = rng.permutation(len(answers))[: OTHERS + 1]
        others = [answers[i] for i in drawn if i != place][:OTHERS]
        alike = plain(right)
        wrong = [o for o in others if plain(o) not in alike and alike not in plain(o)]
        found.append(_asked([document], right, wrong))
    return found


def _asked(documents: Sequence[Document], right: str, wrong: Sequence[str]) -> Asked:
    prompt = documents[0].prompt.tolist()
    longest = max(len(document.tokens) for document in documents) - len(prompt)
    return Asked(prompt, right, tuple(wrong), longest)


def observe(model: Model, probe: Probe) -> Said:
    """Samples `probe.samples` answers to each prompt, at temperature 1.

    Raises:
      ValueError: the probe has neither questions nor records with prompts.
    """
    asked = _of_questions(model, probe) or _of_records(model, probe)
    asked = [one for one in asked if one.tokens and one.right]
    if not asked:
        raise ValueError(
            f"the probe {probe.group!r} has no prompts, to which any_of_samples could "
            "draw answers; give it questions, or records with a prompt and an answer."
        )
    longest = min(max(one.length for one in asked) + MARGIN, MOST_NEW)
    drawn = sampled_generate(
        model.params,
        model.config,
        [one.tokens for one in asked],
        -(-longest // LENGTHS) * LENGTHS,
        Sampling(),
        samples=probe.samples,
        eos_id=model.stops,
        compute=model.compute,
    )
    texts = model.tokenizer.batch_decode(drawn, skip_special_tokens=True)
    right, wrong = [], []
    for number, one in enumerate(asked):
        own = texts[number * probe.samples : (number + 1) * probe.samples]
        says = lambda answer, own=own: any(replies.says(text, answer) for text in own)
        right.append(says(one.right))
        wrong.append(np.mean([says(other) for other in one.wrong] or [np.nan]))
    return Said(np.array(right), np.array(wrong))


def _estimate(said: Said, probe: Probe) -> Estimate:
    del probe
    right, count = int(said.right.sum()), len(said.right)
    known = said.wrong[~np.isnan(said.wrong)]
    lucky = float(known.mean()) if len(known) else None
    return Estimate(right / count, wilson_interval(right, count), count, lucky)


def _each(said: Said, probe: Probe) -> Each:
    del probe
    ids = [str(number) for number in range(len(said.right))]
    return Each(ids, [float(right) for right in said.right], ids)


METRIC = Metric(
    name="any_of_samples",
    direction="knows",
    unit="share",
    counts="prompts",
    source="whether one of n samples at temperature 1 says the answer; the reference is "
    "how often they say a wrong answer of the same kind",
    observe=observe,
    estimate=_estimate,
    protocol="free generation",
    each=_each,
    reference="how often samples say a wrong answer of the same kind",
)
