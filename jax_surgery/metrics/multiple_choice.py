# SPDX-License-Identifier: Apache-2.0
"""Multiple choice: the option that the model finds most likely after the prompt.

Options are scored by the sum of their tokens' log-probabilities, or by their mean where the
question says so (`Question.scoring`: the lowest perplexity). All prompts with their options are packed into rows, so that one forward pass answers many questions.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_surgery.data import prompts
from jax_surgery.data.batch import Batch
from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.stream import one_pass
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import Document, encode_whole, up_to_end
from jax_surgery.metrics.base import Each, Estimate, Metric
from jax_surgery.metrics.intervals import by_cluster, clustered_share
from jax_surgery.metrics.tokens import MANY_ROWS
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
    """Questions as packed text, and where in it the options' tokens are asked for.

    Every prompt with an option is a document, whose option's tokens are asked for one by
    one. Where all options are a single token after the same ones, the first document
    alone is read, and all options are asked for at the same place.

    Attributes:
      rows: the text.
      places: of each token of the text, the row of `tokens` that is asked for after it, -1
        where nothing is; one more -1 for padding, whose index is -1.
      tokens: what is asked for at each place, int32 [places, K].
      asked: (place, column of `tokens`) of every token that is asked for, each [asked].
      options: the option that it belongs to, counted over all questions, [asked].
    """

    rows: Batch
    places: np.ndarray
    tokens: np.ndarray
    asked: tuple[np.ndarray, np.ndarray]
    options: np.ndarray


def encode_options(
    questions: Sequence[Question], tokenizer: Any, as_chat: bool
) -> list[Document]:
    """Every question with each of its options as a document that ends with the option,
    whose tokens alone are learned."""
    asked = [
        prompts.ask(q.prompt, option, f"question {q.id!r}", tokenizer, as_chat)
        for q in questions
        for option in q.options
    ]
    ends = end_tokens(tokenizer)
    return [up_to_end(whole, ends) for whole in encode_whole(asked, tokenizer)]


@functools.lru_cache(maxsize=8)
def _encode_questions(
    questions: tuple[Question, ...], tokenizer: Any, context: int, as_chat: bool
) -> _Encoded:
    encoded = iter(encode_options(questions, tokenizer, as_chat))
    documents: list[Document] = []
    asked: list[tuple[int, int, int]] = []  # after which token of the text, what, whose
    start = length = option = 0
    for question in questions:
        # Tokens of the prompt with each option, and the first that ends beyond the prompt.
        parts = [
            (d.tokens.tolist(), len(d.prompt))
            for d in itertools.islice(encoded, len(question.options))
        ]
        _check_fit(question, parts, context)
        alike = len({tuple(ids[:-1]) for ids, _ in parts}) == 1
        alike &= all(first == len(ids) - 1 for ids, first in parts)
        for number, (ids, first) in enumerate(parts):
            if not (alike and number):
                start, length = length, length + len(ids)
                learned = np.arange(len(ids)) >= first
                documents.append(Document(np.asarray(ids, np.int32), learned, ""))
            # Nothing predicts the first token of a text.
            after = range(max(first, 1), len(ids))
            asked += [(start + i - 1, ids[i], option) for i in after]
            option += 1
    after, wanted, options = np.asarray(asked, np.int64).reshape(-1, 3).T
    known, first, row = np.unique(after, return_index=True, return_inverse=True)
    places = np.full(length + 1, -1)
    places[known] = np.arange(len(known))
    column = np.arange(len(asked)) - first[row]
    tokens = np.zeros((len(known) or 1, 1 + column.max(initial=0)), np.int32)
    tokens[row, column] = wanted
    rows = Packer(documents, context, "tokens").pack()
    return _Encoded(rows, places, tokens, (row, column), options)


def _check_fit(
    question: Question, parts: list[tuple[list[int], int]], context: int
) -> None:
    longest = max(len(ids) for ids, _ in parts)
    if longest > context:
        raise ValueError(
            f"question {question.id!r} is {longest} tokens long; raise "
            f"config.data.context={context} (of tasks: config.tasks.context) to hold it."
        )
    if any(first == len(ids) for ids, first in parts):
        raise ValueError(
            f"question {question.id!r} has an option without a token of its own; "
            "options must not be empty."
        )


@functools.partial(jax.jit, static_argnums=(1, 4))
def _row_candidates(params, config, batch, candidates_BTK, compute):
    hidden = decoder.forward_packed(params, config, batch, compute=compute)
    head = output_head.copies(params, config, compute)
    return logprobs.candidate_logprobs(hidden, head, candidates_BTK)


def answer(model: Model, probe: Probe) -> Answers:
    """Asks the model a probe's questions.

    Raises:
      ValueError: there are none, one does not fit the context, an option has no tokens,
        or the model gives no numbers.
    """
    questions = probe.questions
    if not questions:
        raise ValueError(
            f"the probe {probe.group!r} has no questions, which multiple_choice needs; "
            "name a metric of text, such as answer_accuracy."
        )
    as_chat = prompts.asks_as_chat(model.tokenizer, probe.chat)
    encoded = _encode_questions(questions, model.tokenizer, probe.context, as_chat)
    found = np.zeros(encoded.tokens.shape)
    rows = meshes.round_rows(MANY_ROWS)
    for batch in one_pass(encoded.rows, rows, "answering questions"):
        places_BT = encoded.places[batch.token_index_BT]
        logp_BTK = _row_candidates(
            model.params,
            model.config,
            batch.for_devices(),
            encoded.tokens[places_BT],
            model.compute,
        )
        here_BT = places_BT >= 0
        found[places_BT[here_BT]] = meshes.fetch(logp_BTK)[here_BT]
    ends = np.cumsum([len(q.options) for q in questions])
    scores = np.bincount(encoded.options, found[encoded.asked], minlength=ends[-1])
    counts = np.bincount(encoded.options, minlength=ends[-1])
    logprobs, tokens = np.split(scores, ends[:-1]), np.split(counts, ends[:-1])
    if broken := sum(bool(np.isnan(own).any()) for own in logprobs):
        raise ValueError(
            f"{broken} of {len(questions)} questions cannot be scored: the model's "
            "log-probabilities are no numbers. Its weights hold NaN or are too large for "
            "its dtype; use an earlier checkpoint, or --config.compute.dtype=float32."
        )
    compared = [
        own / count if question.scoring == "perplexity" else own
        for question, own, count in zip(questions, logprobs, tokens, strict=True)
    ]
    return Answers(questions, _likeliest(compared), tuple(logprobs))


def _likeliest(logprobs: Sequence[np.ndarray]) -> np.ndarray:
    """The likeliest option of each question; among equal ones chance chooses.

    The first of them would be right too often where it is often the answer: a model that
    finds all options alike knows none.
    """
    rng, choice = np.random.default_rng(0), []
    for own in logprobs:
        best = np.flatnonzero(own == own.max())
        if len(best) != 1:
            best = rng.permutation(best)
        choice.append(int(best[0]))
    return np.array(choice)


def _estimate(answers: Answers, probe: Probe) -> Estimate:
    interval = clustered_share(*by_cluster(answers.correct, _clusters(answers)))
    value = float(answers.correct.mean())
    return Estimate(value, interval, len(answers.questions), probe.chance)


def _clusters(answers: Answers) -> list[str | int]:
    """What each question is about; of one that does not say it itself alone."""
    return [question.about or i for i, question in enumerate(answers.questions)]


def each(answers: Answers, probe: Probe) -> Each:
    """Whether each answer is right, 1 or 0."""
    del probe
    ids = [question.id for question in answers.questions]
    about = [question.about or question.id for question in answers.questions]
    return Each(ids, answers.correct.astype(float).tolist(), about)


METRIC = Metric(
    name="multiple_choice",
    direction="knows",
    unit="share",
    counts="questions",
    source="the option of the highest summed log-probability, as in Brown et al. 2020, "
    "arXiv 2005.14165, Section 2.4",
    observe=answer,
    estimate=_estimate,
    protocol="likelihood comparison",
    each=each,
    reference="the mean of 1 / options",
)


def summarise(answers: Answers) -> dict[str, dict[str, Any]]:
    """Accuracy of each group, as `results.json` has it.

    Returns:
      {group: {"accuracy", "n", "about" (people or things that they are about),
      "interval" (95 %, see `intervals.clustered_share`), "chance" (the mean of
      1 / options), and for each wording asked "trained" / "unseen": the same five}};
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
            "about": len(set(_clusters(part))),
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
