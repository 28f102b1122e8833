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
import jax.numpy as jnp
import numpy as np

from jax_surgery.data.packing import Packer, Rows
from jax_surgery.data.questions import Question
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.evaluation.statistics import wilson_interval
from jax_surgery.model import llama, logprobs
from jax_surgery.model.config import LlamaConfig

BATCH_ROWS = 32


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


@functools.partial(jax.jit, static_argnums=(1, 3))
def row_logprobs(params, config: LlamaConfig, batch, compute: llama.Compute):
    """log p of every token given those before it in its document, [B, T], nats.

    The first token of a document has no prediction: its entry means nothing.
    """
    hidden = llama.forward(
        params,
        config,
        batch["tokens_BT"],
        batch["segment_ids_BT"],
        batch["positions_BT"],
        compute=compute,
    )
    targets_BT = jnp.pad(batch["tokens_BT"][:, 1:], ((0, 0), (0, 1)))
    head = llama.head_kernel(params)
    logp_BT = logprobs.token_logprobs(hidden, head, targets_BT).logp_BT
    return jnp.pad(logp_BT[:, :-1], ((0, 0), (1, 0)))


def document_sums(
    params: Any,
    config: LlamaConfig,
    documents: list[Document],
    context: int,
    compute: llama.Compute,
    packed: Rows | None = None,
) -> np.ndarray:
    """Sum of log p over the learned tokens of each document, nats."""
    packer = Packer(documents, context, "tokens")
    packed = packed or packer.pack()
    ends = np.cumsum([len(d.tokens) for d in documents])
    sums = np.zeros(len(documents))
    for batch, _ in one_pass(packed, BATCH_ROWS):
        index_BT = batch["token_index_BT"]
        device = {k: v for k, v in batch.items() if k != "token_index_BT"}
        logp_BT = np.asarray(row_logprobs(params, config, device, compute))
        learned = batch["weights_BT"] > 0
        owner = np.searchsorted(ends, index_BT[learned], side="right")
        np.add.at(sums, owner, logp_BT[learned].astype(np.float64))
    return sums


@functools.lru_cache(maxsize=8)
def _encode_questions(
    questions: tuple[Question, ...], tokenizer: Any, context: int
) -> tuple[list[Document], Rows]:
    """A document for each option, whose learned tokens are the option's, packed."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    texts = [q.prompt + option for q in questions for option in q.options]
    borders = [len(q.prompt) for q in questions for _ in q.options]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    documents = []
    for number, (ids, offsets, border) in enumerate(
        zip(encoded["input_ids"], encoded["offset_mapping"], borders, strict=True)
    ):
        learned = [False] * len(bos) + [end > border for _, end in offsets]
        if len(learned) > context:
            raise ValueError(
                f"the question {texts[number][:60]!r}... is {len(learned)} tokens "
                f"long; raise config.data.context={context} to hold it."
            )
        if not any(learned[1:]):
            raise ValueError(
                f"an option of {texts[number][:60]!r}... has no token of its own; "
                "options must not be empty."
            )
        documents.append(
            Document(np.asarray(bos + ids, np.int32), np.asarray(learned), "")
        )
    return documents, Packer(documents, context, "tokens").pack()


def answer(
    params: Any,
    config: LlamaConfig,
    tokenizer: Any,
    questions: Sequence[Question],
    compute: llama.Compute,
    context: int = 256,
) -> Answers:
    """Asks the model all questions.

    Args:
      params, config: the model.
      tokenizer: its tokenizer.
      questions: at least one.
      compute: how to run the forward pass.
      context: tokens a row; every prompt with its option must fit.

    Raises:
      ValueError: a question that does not fit, or an option without tokens.
    """
    questions = tuple(questions)
    documents, packed = _encode_questions(questions, tokenizer, context)
    sums = document_sums(params, config, documents, context, compute, packed)
    starts = np.cumsum([len(q.options) for q in questions])[:-1]
    by_question = tuple(np.split(sums, starts))
    choice = np.array([int(np.argmax(s)) for s in by_question])
    return Answers(questions, choice, by_question)


def summarise(answers: Answers) -> dict[str, dict[str, Any]]:
    """Accuracy of each group, as `results.json` has it.

    Returns:
      {group: {"accuracy", "n", "interval" (Wilson, 95 %), and for each wording asked
      "trained" / "unseen": the same three}}; accuracies are fractions.
    """
    correct = answers.correct
    groups = np.array([q.group for q in answers.questions])
    wordings = np.array([q.wording for q in answers.questions])

    def entry(mask):
        right, count = int(correct[mask].sum()), int(mask.sum())
        return {
            "accuracy": right / count,
            "n": count,
            "interval": list(wilson_interval(right, count)),
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
