# SPDX-License-Identifier: Apache-2.0
"""Greedy answers before and after a run, for the report."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import Document
from jax_surgery.models.generate import greedy_generate
from jax_surgery.models.model import Model
from jax_surgery.report import page

A_GROUP = 4  # questions or texts
ANSWER_TOKENS = 8  # of an answer to a question
TEXT_TOKENS = 32  # of the continuation of a text, at most
CHARACTERS = 160  # of a text that are shown


class Prompt(NamedTuple):
    """What is asked: about what, as text and as tokens, and what is right."""

    about: str
    prompt: str
    reference: str
    tokens: list[int]


class Examples:
    """Prompts, and the greedy answers before a run.

    They are asked before the run, which may donate the initial parameters; the model is
    not kept.
    """

    def __init__(
        self, model: Model, prompts: list[Prompt], tokens: int, *, sentences=False
    ):
        """Asks the model before the run.

        Args:
          tokens: of an answer, at most.
          sentences: whether an answer ends with its first sentence.
        """
        self._prompts, self._tokens, self._sentences = prompts, tokens, sentences
        self._before = self._answers(model)

    def _answers(self, model: Model) -> list[str]:
        tokenizer = model.tokenizer
        answers = greedy_generate(
            model.params,
            model.config,
            [asked.tokens for asked in self._prompts],
            self._tokens,
            batch_rows=len(self._prompts),
            compute=model.compute,
        )
        said = [tokenizer.decode(i, skip_special_tokens=True).strip() for i in answers]
        return [text.split(".")[0] for text in said] if self._sentences else said

    def after(self, model: Model) -> list[page.Example]:
        """The answers before, beside those of this model."""
        columns = (self._prompts, self._before, self._answers(model))
        return [
            page.Example(
                about=asked.about,
                prompt=asked.prompt,
                reference=asked.reference,
                before=before,
                after=after,
            )
            for asked, before, after in zip(*columns, strict=True)
        ]


def of_questions(model: Model, questions: tuple[Question, ...]) -> Examples:
    """Answers to some questions of each group."""
    tokenizer, rng, prompts = model.tokenizer, np.random.default_rng(0), []
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for group in dict.fromkeys(q.group for q in questions):
        members = [q for q in questions if q.group == group]
        for i in rng.permutation(len(members))[:A_GROUP]:
            asked = members[i]
            ids = tokenizer(asked.prompt, add_special_tokens=False)["input_ids"]
            right = asked.options[asked.answer].strip()
            prompts.append(Prompt(group, asked.prompt, right, bos + ids))
    # An option is part of a sentence.
    return Examples(model, prompts, ANSWER_TOKENS, sentences=True)


def of_texts(
    model: Model, groups: Mapping[str, Iterable[Document]], each: int = A_GROUP
) -> Examples:
    """Continuations of some texts of each group.

    A text is cut where learning begins, or in the middle where all of it is learned.
    """

    def decode(tokens: np.ndarray) -> str:
        return model.tokenizer.decode(tokens, skip_special_tokens=True)

    prompts, longest = [], 1
    for group, documents in groups.items():
        for document in list(documents)[:each]:
            cut = int(np.argmax(document.learned[1:])) + 1
            if cut == 1:
                cut = max(1, len(document.tokens) // 2)
            start, rest = document.tokens[:cut], document.tokens[cut:]
            longest = max(longest, len(rest))
            prompt, reference = decode(start)[-CHARACTERS:], decode(rest).strip()
            prompts.append(
                Prompt(group, prompt, reference[:CHARACTERS], start.tolist())
            )
    return Examples(model, prompts, min(longest, TEXT_TOKENS))
