# SPDX-License-Identifier: Apache-2.0
"""Asks a model TOFU: one forward pass over all answers, and its own answers."""

import dataclasses

import numpy as np

from jax_surgery.benchmarks.tofu import Asked, Tofu
from jax_surgery.metrics import rouge_l
from jax_surgery.metrics.one_pass import DocumentScores, score_records
from jax_surgery.metrics.tofu.log import Log, Table
from jax_surgery.models.model import Model

NEW_TOKENS = 200  # of an answer that the model writes, at most
OF_ANSWERS = tuple(
    field.name
    for field in dataclasses.fields(DocumentScores)
    if field.name in {field.name for field in dataclasses.fields(Table)}
)


def ask(model: Model, benchmark: Tofu) -> Log:
    """A model's answers to all that TOFU's scores ask.

    Raises:
      FileNotFoundError, ValueError: see `Tofu.asked` and `one_pass.score_documents`.
    """
    asked = benchmark.asked()
    every = [record for rows in asked.values() for row in rows for record in _said(row)]
    scores = score_records(model, every)
    spoken = [row.answer for rows in asked.values() for row in rows if row.perturbed]
    recalls = rouge_l.recalls(
        rouge_l.write_answers(model, spoken, NEW_TOKENS), spoken
    )
    tables, place, told = {}, 0, 0
    for split, rows in asked.items():
        each = len(_said(rows[0]))  # answers to a question
        there = np.arange(place, place + each * len(rows)).reshape(-1, each)
        place += there.size
        own = scores.take(there[:, 0])
        values = {name: getattr(own, name) for name in OF_ANSWERS}
        if wrong := len(rows[0].perturbed):
            # The answer itself, where there is no paraphrase of it.
            paraphrase = there[:, -wrong - 1]
            values["paraphrased_loss"] = scores.loss[paraphrase]
            values["perturbed_loss"] = scores.loss[there[:, -wrong:]]
            values["rouge_l"] = recalls[told : told + len(rows)]
            told += len(rows)
        tables[split] = Table(**values)
    return Log(model.source or "a model in memory", benchmark.forget, tables)


def _said(row: Asked) -> list:
    """The answers to a question, the right one first."""
    paraphrase = [row.paraphrased] if row.paraphrased else []
    return [row.answer, *paraphrase, *row.perturbed]
