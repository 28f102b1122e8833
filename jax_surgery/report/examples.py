# SPDX-License-Identifier: Apache-2.0
"""Greedy answers before and after a run, for the report."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import Document
from jax_surgery.models.generate import greedy_generate
from jax_surgery.models.model import Model
from jax_surgery.report import page

A_GROUP = 4  # questions of a group, or texts of a role
ANSWER_TOKENS = 8  # of an answer to a question
A_TASK, TASK_TOKENS = 2, 32  # texts of a task, and of an answer to one at most
PROMPT_CHARACTERS = 160  # of a role's text shown as a prompt


def complete(model: Model, prompts: list[str], tokens: int) -> list[str]:
    """Greedy continuations of prompts, each of `tokens` at most, in the compute dtype."""
    tokenizer = model.tokenizer
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = [
        bos + tokenizer(prompt, add_special_tokens=False)["input_ids"]
        for prompt in prompts
    ]
    answers = greedy_generate(
        model.params,
        model.config,
        encoded,
        tokens,
        batch_rows=len(encoded),
        compute=model.compute,
    )
    return [tokenizer.decode(ids).strip() for ids in answers]


class BeforeAndAfter(Protocol):
    """Answers from before a run, to be shown beside those from after it."""

    def after(self, model: Model) -> list[page.Example]:
        """The answers before, beside those of this model."""


class Examples:
    """Prompts with what is right, and the greedy answers before a run.

    They are asked before the run, which may donate the initial parameters; the model is
    not kept.
    """

    def __init__(
        self,
        model: Model,
        about: list[str],
        prompts: list[str],
        references: list[str],
        tokens: int,
        *,
        sentences: bool = False,
    ):
        """Asks the model before the run.

        Args:
          about, prompts, references: what each prompt is of, the prompt, what is right.
          tokens: of an answer, at most.
          sentences: whether an answer ends with its first sentence.
        """
        self._about, self._prompts, self._references = about, prompts, references
        self._tokens, self._sentences = tokens, sentences
        self._before = self._answers(model)

    def _answers(self, model: Model) -> list[str]:
        said = complete(model, self._prompts, self._tokens)
        return [text.split(".")[0] for text in said] if self._sentences else said

    def after(self, model: Model) -> list[page.Example]:
        """The answers before, beside those of this model."""
        columns = (
            self._about,
            self._prompts,
            self._references,
            self._before,
            self._answers(model),
        )
        return [
            page.Example(about=a, prompt=p, reference=r, before=x, after=y)
            for a, p, r, x, y in zip(*columns, strict=True)
        ]


def of_questions(model: Model, questions: tuple[Question, ...]) -> Examples:
    """Answers to some questions of each group."""
    rng = np.random.default_rng(0)
    chosen = []
    for group in dict.fromkeys(q.group for q in questions):
        members = [q for q in questions if q.group == group]
        picks = rng.permutation(len(members))[:A_GROUP]
        chosen += [members[i] for i in picks]
    return Examples(
        model,
        [q.group for q in chosen],
        [q.prompt for q in chosen],
        [q.options[q.answer].strip() for q in chosen],
        ANSWER_TOKENS,
        sentences=True,  # an option is part of one
    )


def of_roles(model: Model, documents: Mapping[str, Iterable[Document]]) -> Examples:
    """Continuations of some texts of each role.

    A text is cut where learning begins, or in the middle where all of it is learned.
    """
    about, prompts, references = [], [], []
    decode = model.tokenizer.decode
    for role, texts in documents.items():
        for document in list(texts)[:A_GROUP]:
            first = int(np.argmax(document.learned[1:])) + 1
            cut = first if first > 2 else max(1, len(document.tokens) // 2)
            about.append(role)
            start = decode(document.tokens[:cut], skip_special_tokens=True)
            prompts.append(start[-PROMPT_CHARACTERS:])
            rest = decode(document.tokens[cut:], skip_special_tokens=True)
            references.append(rest.strip()[:PROMPT_CHARACTERS])
    return Examples(model, about, prompts, references, 4 * ANSWER_TOKENS)


def of_tasks(model: Model, documents: Mapping[str, Iterable[Document]]) -> Examples:
    """Answers to the starts of some texts of every task."""
    decode = model.tokenizer.decode
    about, prompts, references, longest = [], [], [], 1
    for name, texts in documents.items():
        for document in list(texts)[:A_TASK]:
            first = int(np.argmax(document.learned[1:])) + 1
            answer = document.tokens[first:]
            longest = max(longest, len(answer))
            about.append(name)
            prompts.append(decode(document.tokens[:first], skip_special_tokens=True))
            references.append(decode(answer, skip_special_tokens=True).strip())
    return Examples(model, about, prompts, references, min(longest, TASK_TOKENS))
