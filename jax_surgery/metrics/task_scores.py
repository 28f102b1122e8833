# SPDX-License-Identifier: Apache-2.0
"""How well a model does tasks, and how much of a task is gone."""

import dataclasses
import math
from typing import Any

import numpy as np

from jax_surgery.benchmarks.tasks import TaskText
from jax_surgery.metrics import answers, multiple_choice
from jax_surgery.metrics import intervals as statistics
from jax_surgery.models import llama
from jax_surgery.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Score:
    """Of a task.

    Attributes:
      value: what the task's scorer gives, 0 to 1.
      interval: 95 %, Wilson's of accuracies, of a bootstrap over texts of likelihoods.
      n: answers' tokens or questions.
      exact: share of texts of which every token is right; of questions the accuracy.
      chance: the value of a model that does not know the task.
    """

    value: float
    interval: tuple[float, float]
    n: int
    exact: float
    chance: float


def score(
    params: Any,
    config: ModelConfig,
    tokenizer: Any,
    text: TaskText,
    context: int,
    compute: llama.Compute,
    limit: int | None = None,
) -> Score:
    """Scores a model on a task.

    Args:
      text: the task's.
      context: tokens a row.
      limit: texts or questions at most, the first; None takes all.
    """
    if text.questions:
        asked = text.questions[:limit]
        given = multiple_choice.answer(
            params, config, tokenizer, asked, compute, context
        )
        right, count = int(given.correct.sum()), len(asked)
        share = right / count
        interval = statistics.wilson_interval(right, count)
        return Score(share, interval, count, share, text.chance)
    found = answers.score_answers(params, config, text.tested[:limit], context, compute)
    count = int(found.tokens.sum())
    if text.task.scorer == "likelihood":
        value = float(np.exp(found.logp.sum() / count))
        # Of the very value: a mean over texts lies above a geometric one.
        low, high = statistics.bootstrap_ratio(found.logp, found.tokens)
        interval = (math.exp(low), math.exp(high))
        return Score(value, interval, count, found.exact, text.chance)
    interval = statistics.wilson_interval(int(found.right.sum()), count)
    return Score(found.accuracy, interval, count, found.exact, text.chance)


def removed(before: Score, after: Score) -> float:
    """Share of what is known beyond chance that is gone: 1 is all, 0 none; above 1 the
    model does worse than one that does not know the task. NaN where nothing was known.
    """
    known = before.value - before.chance
    return 1 - (after.value - before.chance) / known if known > 0 else float("nan")


def drop(before: Score, after: Score) -> float:
    """Share of a score that is lost; below 0 it has grown."""
    return 1 - after.value / before.value if before.value else 0.0
