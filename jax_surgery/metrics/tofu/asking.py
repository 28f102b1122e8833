# SPDX-License-Identifier: Apache-2.0
"""Asks a model TOFU: one forward pass over all answers, and answers of its own."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jax_surgery.benchmarks.tofu import Asked, Tofu
from jax_surgery.data.forms import Record
from jax_surgery.metrics import rouge_l
from jax_surgery.metrics.one_pass import DocumentScores, score_records
from jax_surgery.metrics.tofu.log import FIELDS, Log, Table
from jax_surgery.models.model import Model

NEW_TOKENS = 200  # of an answer that the model writes, at most
# What `DocumentScores` and `Table` both have.
OF_ANSWERS = [f.name for f in dataclasses.fields(DocumentScores) if f.name in FIELDS]
Questions = Mapping[str, Sequence[Asked]]  # by split


def answers_to(row: Asked) -> list[Record]:
    """The answers to a question: the right one, it in other words, wrong ones."""
    paraphrase = [row.paraphrased] if row.paraphrased else []
    return [row.answer, *paraphrase, *row.perturbed]


def score(model: Model, asked: Questions) -> DocumentScores:
    """Scores of all answers to all questions, in this order, from one forward pass."""
    rows = (row for rows in asked.values() for row in rows)
    return score_records(model, [record for row in rows for record in answers_to(row)])


def recall(model: Model, asked: Questions) -> np.ndarray:
    """ROUGE-L recall of what the model writes, to every question but held-out ones."""
    every = [row.answer for rows in asked.values() for row in rows if row.perturbed]
    return rouge_l.recalls(rouge_l.write_answers(model, every, NEW_TOKENS), every)


def ask(model: Model, benchmark: Tofu) -> Log:
    """A model's answers to all that TOFU's scores ask.

    Raises:
      FileNotFoundError, ValueError: see `Tofu.asked` and `one_pass.score_documents`.
    """
    asked = benchmark.asked()
    tables = tables_of(asked, score(model, asked), recall(model, asked))
    return Log(model.source or "a model in memory", benchmark.forget, tables)


def tables_of(
    asked: Questions, scores: DocumentScores, recalls: np.ndarray
) -> dict[str, Table]:
    """The tables of a log, by split, from what `score` and `recall` give."""
    tables, place, told = {}, 0, 0
    for split, rows in asked.items():
        each, wrong = len(answers_to(rows[0])), len(rows[0].perturbed)
        there = np.arange(place, place + each * len(rows)).reshape(-1, each)
        place += there.size
        own = scores.take(there[:, 0])
        values = {name: getattr(own, name) for name in OF_ANSWERS}
        if wrong:
            # The answer itself, where it is in no other words.
            values["paraphrased_loss"] = scores.loss[there[:, -wrong - 1]]
            values["perturbed_loss"] = scores.loss[there[:, -wrong:]]
            values["rouge_l"] = recalls[told : told + len(rows)]
            told += len(rows)
        tables[split] = Table(**values)
    return tables
