# SPDX-License-Identifier: Apache-2.0
"""Multiple choice: the option that the model finds most likely after the prompt.

Options are scored by the sum of their tokens' log-probabilities. All prompts with
their options are packed into rows, so that one forward pass answers many questions.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_surgery.data.packing import Packer, Rows
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.metrics.base import Estimate, Metric
from jax_surgery.metrics.intervals import wilson_interval
from jax_surgery.metrics.tokens import MANY_ROWS, score_tokens
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to questions.

    Attributes:
      questions: what was asked.
      choice: index of the option chosen, [questions].
      logprobs: of each option, nats; one array of [options] a question.
    """

    questions: tuple[Question, ...]
    choice: np.ndarray
    logprobs: tuple[np.ndarray, ...]

    @property
    def correct(self) -> np.ndarray:
        """Whether each answer is right, bool [questions]."""
        return self.choice == np.array([q.answer for q in self.questions])

    def take(self, places: np.ndarray) -> "Answers":
        """The answers to some of the questions."""
        questions = tuple(self.questions[i] for i in places)
        logprobs = tuple(self.logprobs[i] for i in places)
        return Answers(questions, self.choice[places], logprobs)


@dataclasses.dataclass(frozen=True, eq=False)
class _Encoded:
    """Questions as packed rows.

    Questions whose options are one token each need their prompt only: `prompts`, with
    the learned mark on the last token of each, and `candidates` [prompts, K]. Of the
    others every prompt with an option is a document of its own: `whole`.
    """

    short: tuple[int, ...]  # places of the questions in `prompts`
    prompts: Rows | None
    prompt_ends: np.ndarray
    candidates: np.ndarray
    long: tuple[int, ...]
    whole: list[Document]
    packed: Rows | None


# Tokens of a prompt with an option, those of the option, and whether the others are the
# tokens of the prompt alone.
_Part = tuple[list[int], list[int], bool]


def _option_ids(
    prompt_ids: list[int], full_ids: list[int], offsets: Any, border: int
) -> tuple[list[int], bool]:
    """The option's tokens: those that end beyond the prompt; [] if it has none."""
    first = next((i for i, (_, end) in enumerate(offsets) if end > border), None)
    if first is None:
        return [], False
    return full_ids[first:], full_ids[:first] == prompt_ids


@functools.lru_cache(maxsize=8)
def _encode_questions(
    questions: tuple[Question, ...], tokenizer: Any, context: int
) -> _Encoded:
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    texts = [q.prompt + option for q in questions for option in q.options]
    prompts = tokenizer([q.prompt for q in questions], add_special_tokens=False)
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    width = max(len(q.options) for q in questions)
    place, short, long = 0, [], []
    prompt_documents, candidates, whole = [], [], []
    for number, question in enumerate(questions):
        prompt_ids = prompts["input_ids"][number]
        parts: list[_Part] = []
        for option in range(len(question.options)):
            ids = encoded["input_ids"][place + option]
            offsets = encoded["offset_mapping"][place + option]
            parts.append(
                (ids, *_option_ids(prompt_ids, ids, offsets, len(question.prompt)))
            )
        place += len(question.options)
        _check_fit(question, parts, len(bos), context)
        if all(clean and len(option) == 1 for _, option, clean in parts):
            ids = np.asarray(bos + prompt_ids, np.int32)
            learned = np.arange(len(ids)) == len(ids) - 1
            # A first token is never marked as learned by the packer.
            if len(ids) > 1:
                short.append(number)
                prompt_documents.append(Document(ids, learned, ""))
                row = [option[0] for _, option, _ in parts]
                candidates.append(row + [row[0]] * (width - len(row)))
                continue
        long.append(number)
        for ids, option, _ in parts:
            tokens = np.asarray(bos + ids, np.int32)
            learned = np.arange(len(tokens)) >= len(tokens) - len(option)
            whole.append(Document(tokens, learned, ""))
    ends = np.cumsum([len(d.tokens) for d in prompt_documents])
    return _Encoded(
        tuple(short),
        Packer(prompt_documents, context, "tokens").pack() if short else None,
        ends,
        np.asarray(candidates, np.int32),
        tuple(long),
        whole,
        Packer(whole, context, "tokens").pack() if long else None,
    )


def _check_fit(
    question: Question, parts: list[_Part], extra: int, context: int
) -> None:
    longest = extra + max(len(ids) for ids, _, _ in parts)
    if longest > context:
        raise ValueError(
            f"question {question.id!r} is {longest} tokens long; raise "
            f"config.data.context={context} (of tasks: config.tasks.context) to hold it."
        )
    if any(not option for _, option, _ in parts):
        raise ValueError(
            f"question {question.id!r} has an option without a token of its own; "
            "options must not be empty."
        )


@functools.partial(jax.jit, static_argnums=(1, 4))
def _row_candidates(params, config, batch, candidates_BTK, compute):
    hidden = decoder.forward_packed(
        params,
        config,
        batch,
        compute=compute,
    )
    head = output_head.copies(params, compute)
    return logprobs.candidate_logprobs(hidden, head, candidates_BTK)


def _score_short(model: Model, encoded: _Encoded, prompts: Rows) -> np.ndarray:
    """log p of each one-token option, [questions, K]."""
    scores = np.zeros(encoded.candidates.shape)
    for batch, _ in one_pass(prompts, meshes.round_rows(MANY_ROWS)):
        index_BT = np.asarray(batch.token_index_BT)
        last_BT = np.asarray(batch.weights_BT) > 0
        owner = np.searchsorted(encoded.prompt_ends, index_BT[last_BT], side="right")
        wanted = np.zeros((*last_BT.shape, encoded.candidates.shape[1]), np.int32)
        wanted[last_BT] = encoded.candidates[owner]
        logp = _row_candidates(
            model.params, model.config, batch.for_devices(), wanted, model.compute
        )
        scores[owner] = meshes.fetch(logp)[last_BT]
    return scores


def answer(model: Model, probe: Probe) -> Answers:
    """Asks the model a probe's questions.

    Raises:
      ValueError: there are none, one does not fit the context, or an option has no
        tokens.
    """
    if not probe.questions:
        raise ValueError(
            f"the probe {probe.group!r} has no questions, which multiple_choice needs; "
            "name a metric of text, such as answer_accuracy."
        )
    questions, context = probe.questions, probe.context
    encoded = _encode_questions(questions, model.tokenizer, context)
    scores: list[np.ndarray] = [np.zeros(0)] * len(questions)
    if encoded.prompts is not None:
        found = _score_short(model, encoded, encoded.prompts)
        for place, row in zip(encoded.short, found, strict=True):
            scores[place] = row[: len(questions[place].options)]
    if encoded.long:
        packer = Packer(encoded.whole, context, "tokens")
        rows, size = encoded.packed, MANY_ROWS
        logp = score_tokens(model, packer, "logp", rows=rows, batch_rows=size)["logp"]
        sums = packer.sums(logp)
        sizes = [len(questions[place].options) for place in encoded.long]
        for place, part in zip(
            encoded.long, np.split(sums, np.cumsum(sizes)[:-1]), strict=True
        ):
            scores[place] = part
    choice = np.array([int(np.argmax(s)) for s in scores])
    return Answers(questions, choice, tuple(scores))


def _estimate(answers: Answers, probe: Probe) -> Estimate:
    right, count = int(answers.correct.sum()), len(answers.questions)
    return Estimate(right / count, wilson_interval(right, count), count, probe.chance)


METRIC = Metric(
    name="multiple_choice",
    direction="knows",
    unit="share",
    counts="questions",
    source="the option of the highest summed log-probability, as in Brown et al. 2020, "
    "arXiv 2005.14165, Section 2.4",
    observe=answer,
    estimate=_estimate,
)


def summarise(answers: Answers) -> dict[str, dict[str, Any]]:
    """Accuracy of each group, as `results.json` has it.

    Returns:
      {group: {"accuracy", "n", "interval" (Wilson, 95 %), "chance" (the mean of
      1 / options), and for each wording asked "trained" / "unseen": the same four}};
      accuracies are fractions.
    """
    groups = np.array([q.group for q in answers.questions])
    wordings = np.array([q.wording for q in answers.questions])

    def entry(mask: np.ndarray) -> dict[str, Any]:
        part = answers.take(np.flatnonzero(mask))
        found = _estimate(part, Probe("", 0, part.questions))
        return {
            "accuracy": found.value,
            "n": found.n,
            "interval": list(found.interval),
            "chance": found.reference,
        }

    summary = {}
    for group in dict.fromkeys(groups.tolist()):
        mask = groups == group
        summary[group] = entry(mask)
        for wording in ("trained", "unseen"):
            if (both := mask & (wordings == wording)).any():
                summary[group][wording] = entry(both)
    return summary


def subsample(
    questions: Sequence[Question], a_group: int, seed: int = 0
) -> tuple[Question, ...]:
    """At most `a_group` questions of each group, wordings mixed; seeded."""
    rng = np.random.default_rng(seed)
    chosen = []
    for group in dict.fromkeys(q.group for q in questions):
        members = [q for q in questions if q.group == group]
        if len(members) > a_group:
            picks = np.sort(rng.permutation(len(members))[:a_group])
            members = [members[i] for i in picks]
        chosen += members
    return tuple(chosen)
