# SPDX-License-Identifier: Apache-2.0
"""Greedy answers before and after a run, for the report."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_surgery.data import prompts
from jax_surgery.data.prompts import AsChat
from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import Document
from jax_surgery.metrics import multiple_choice
from jax_surgery.models.generate import greedy_generate
from jax_surgery.models.model import Model
from jax_surgery.parallel import progress
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
        with progress.phase("writing the answers that the report shows"):
            answers = greedy_generate(
                model.params,
                model.config,
                [asked.tokens for asked in self._prompts],
                self._tokens,
                eos_id=model.stops,
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


def of_questions(
    model: Model,
    questions: tuple[Question, ...],
    seed: int = 0,
    chat: AsChat = "auto",
) -> Examples:
    """Answers to some questions of each group, drawn with the seed.

    They are asked as `multiple_choice` asks them.

    Args:
      chat: whether in the model's chat template.
    """
    as_chat = prompts.asks_as_chat(model.tokenizer, chat)
    rng, asked = np.random.default_rng(seed), []
    for group in dict.fromkeys(q.group for q in questions):
        members = [q for q in questions if q.group == group]
        asked += [members[i] for i in rng.permutation(len(members))[:A_GROUP]]
    encoded = iter(multiple_choice.encode_options(asked, model.tokenizer, as_chat))
    found = []
    for question in asked:
        first, *_ = itertools.islice(encoded, len(question.options))
        right = question.options[question.answer].strip()
        prompt = first.prompt.tolist()
        found.append(Prompt(question.group, question.prompt, right, prompt))
    # An option is part of a sentence.
    return Examples(model, found, ANSWER_TOKENS, sentences=not as_chat)


def _drawn(
    documents: Sequence[Document], count: int, rng: np.random.Generator
) -> list[Document]:
    """Some documents of different records, and of different facts while there are any.

    Two wordings of a fact have the same learned tokens.
    """
    order = [documents[i] for i in rng.permutation(len(documents))]
    seen: set[object] = set()
    chosen, rest = [], []
    for document in order:
        fact = document.tokens[document.learned].tobytes()
        new = seen.isdisjoint({fact, document.origin or id(document)})
        (chosen if new else rest).append(document)
        seen |= {fact, document.origin or id(document)}
        if len(chosen) == count:
            return chosen
    return (chosen + rest)[:count]


def of_texts(
    model: Model,
    groups: Mapping[str, Sequence[Document]],
    each: int = A_GROUP,
    seed: int = 0,
) -> Examples:
    """Continuations of some texts of each group, drawn with the seed.

    A text is cut where learning begins, or in the middle where all of it is learned, and
    its tokens up to there are what the model is asked with.
    """
    tokenizer, rng = model.tokenizer, np.random.default_rng(seed)

    def decode(tokens: np.ndarray) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=True)

    found, longest = [], 1
    for group, documents in groups.items():
        for document in _drawn(documents, each, rng):
            cut = int(np.argmax(document.learned[1:])) + 1
            if cut == 1:
                cut = max(1, len(document.tokens) // 2)
            start, rest = document.tokens[:cut], document.tokens[cut:]
            # What is right ends with the turn, as the answer does.
            ends = np.flatnonzero(np.isin(rest, model.stops))
            rest = rest[: ends[0]] if len(ends) else rest
            longest = max(longest, len(rest))
            prompt, reference = decode(start)[-CHARACTERS:], decode(rest).strip()
            found.append(Prompt(group, prompt, reference[:CHARACTERS], start.tolist()))
    return Examples(model, found, min(longest, TEXT_TOKENS))
