# SPDX-License-Identifier: Apache-2.0
"""Linear probes: the answer is read from the states inside, not from the model's output.

What a model no longer says may still stand in its hidden states (Patil et al. 2023, arXiv
2309.17410; Łucki et al. 2024, arXiv 2409.18025). An adversary with the weights fits a linear
map from the state at the end of a prompt to the answer, on facts that the model was to
retain, and reads the removed ones with it. A ridge regression maps a state to the tokens of
the answer, as a bag of words; of a question's options the one is chosen whose bag is most
like that.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.attacks.base import Target
from jax_surgery.attacks.without_training import Variant, WithoutTraining
from jax_surgery.data import prompts
from jax_surgery.data.batch import Batch
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.metrics import multiple_choice
from jax_surgery.metrics.base import Estimate
from jax_surgery.metrics.intervals import wilson_interval
from jax_surgery.models import decoder
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes

ROWS, BUCKET = 32, 32  # prompts of a forward pass; tokens that these are padded to
OPTIONS = 4  # of records that are asked as questions
DAMPING = (1e-3, 1e-2, 1e-1, 1.0)  # tried, relative to the states' mean square
LEAST = 20  # known facts, to fit a probe


class Facts(NamedTuple):
    """Questions, what the model makes of their prompts, and their options.

    Attributes:
      states: after each layer, at the prompt's last token, float32 [layers, questions, D].
      bags: of each question its options' tokens, [options, V], of length 1.
      answers: the right option of each question.
    """

    states: np.ndarray
    bags: list[np.ndarray]
    answers: list[int]


def as_questions(probe: Probe, seed: int) -> list[Question]:
    """A probe's questions; records with the answers of others beside theirs."""
    if probe.questions:
        return list(probe.questions)
    rng, found = np.random.default_rng(seed), []
    answers = list(dict.fromkeys(record.answer for record in probe.records))
    for number, record in enumerate(probe.records):
        prompt = record.question or record.prompt
        others = [answer for answer in answers if answer != record.answer]
        if not prompt or not others or record.messages:
            continue
        drawn = rng.permutation(len(others))[: OPTIONS - 1]
        options = (record.answer, *(others[i] for i in drawn))
        name = f"{probe.group}-{number}"
        found.append(Question(name, probe.group, "trained", prompt, options, 0))
    return found


@functools.partial(jax.jit, static_argnums=(1, 4))
def _states(params, config, batch, last_B, compute):
    """States after each layer at some tokens, under the final norm, [layers, B, D]."""
    hidden, inside = decoder.forward_with_inside(params, config, batch, compute=compute)
    # Of each layer after its attention and after its MLP; the last one's are `hidden`.
    after = [*inside[1::2], hidden]
    rows_B = jnp.arange(len(last_B))
    return jnp.stack([state[rows_B, last_B] for state in after]).astype(jnp.float32)


def facts(model: Model, probe: Probe, questions: Sequence[Question]) -> Facts:
    """Runs the model on the prompts of questions."""
    as_chat = prompts.asks_as_chat(model.tokenizer, probe.chat)
    encoded = iter(multiple_choice.encode_options(questions, model.tokenizer, as_chat))
    asked, bags = [], []
    for question in questions:
        options = [next(encoded) for _ in question.options]
        asked.append(options[0].prompt)
        own = np.zeros((len(options), model.config.vocab_size), np.float32)
        for row, option in zip(own, options, strict=True):
            np.add.at(row, option.tokens[len(option.prompt) :], 1.0)
        bags.append(own / np.linalg.norm(own, axis=1, keepdims=True).clip(1e-9))
    rows = meshes.round_rows(ROWS)
    width = -(-max(map(len, asked)) // BUCKET) * BUCKET
    found = []
    for start in range(0, len(asked), rows):
        some = asked[start : start + rows]
        tokens_BT = np.zeros((rows, width), np.int32)
        segment_BT = np.zeros((rows, width), np.int32)
        last_B = np.zeros(rows, np.int32)
        for row, tokens in enumerate(some):
            tokens_BT[row, : len(tokens)] = tokens
            segment_BT[row, : len(tokens)] = 1
            last_B[row] = len(tokens) - 1
        positions_BT = np.where(segment_BT > 0, np.arange(width, dtype=np.int32), 0)
        batch = Batch(tokens_BT, segment_BT, positions_BT)
        states = _states(model.params, model.config, batch, last_B, model.compute)
        found.append(meshes.fetch(states)[:, : len(some)])
    answers = [question.answer for question in questions]
    return Facts(np.concatenate(found, axis=1), bags, answers)


def chosen(predicted: np.ndarray, bags: Sequence[np.ndarray]) -> np.ndarray:
    """The option of each question that is most like what was predicted, [questions, V]."""
    pairs = zip(predicted, bags, strict=True)
    return np.array([int(np.argmax(own @ one)) for one, own in pairs])


def read(known: Facts, asked: Facts, layer: int) -> tuple[np.ndarray, float]:
    """Fits a probe on known facts, and reads what is asked with it.

    The damping is that with which most known facts are right, each left out in turn (the
    residual of a ridge regression without a row is its own over 1 - leverage).

    Returns:
      (the option chosen of each question, share of known facts that are right, left out).
    """
    x, y = (
        known.states[layer],
        np.stack([b[a] for b, a in zip(known.bags, known.answers, strict=True)]),
    )
    used = np.flatnonzero(y.any(0))  # other tokens are never predicted
    y, mean_x = y[:, used], x.mean(0)
    x, mean_y = x - mean_x, y.mean(0)
    gram = x @ x.T
    values, vectors = np.linalg.eigh(gram)
    scale, right = values.sum() / len(x), np.array(known.answers)
    small = lambda bags: [own[:, used] for own in bags]
    best = (-1.0, np.zeros_like(y))
    for damping in DAMPING:
        kept = vectors / (values.clip(0) + damping * scale)
        inverse = kept @ vectors.T
        weights = inverse @ (y - mean_y)
        left_out = y - weights / np.diag(inverse)[:, None]
        score = float((chosen(left_out, small(known.bags)) == right).mean())
        best = max(best, (score, weights), key=lambda one: one[0])
    score, weights = best
    predicted = (asked.states[layer] - mean_x) @ x.T @ weights + mean_y
    return chosen(predicted, small(asked.bags)), score


@dataclasses.dataclass(frozen=True)
class LinearProbe(WithoutTraining):
    """Reads answers from the states after each layer.

    Attributes:
      facts: known ones that a probe is fitted on, at most, drawn.
      last: so many of the uppermost layers are tried; 0 for all.
    """

    facts: int = 1000
    last: int = 0

    def __post_init__(self):
        if self.facts < LEAST or self.last < 0:
            raise ValueError(
                f"linear_probe:facts={self.facts},last={self.last}: use {LEAST} facts or "
                "more, and 0 (all layers) or more."
            )

    def lacks(self, target: Target) -> str:
        """See `base.lacking`."""
        known = sum(len(as_questions(probe, 0)) for probe in target.known())
        if not any(as_questions(probe, 0) for probe in target.probes):
            return (
                "linear_probe needs questions, or records with a prompt and an answer."
            )
        if known >= LEAST:
            return ""
        return (
            f"linear_probe has {known} facts that the model still knows; it needs {LEAST} "
            "at least: give config.data.known (of a benchmark: groups to retain)."
        )

    def variants(self, model: Model, target: Target, seed: int) -> Iterator[Variant]:
        """See `WithoutTraining`."""
        if missing := self.lacks(target):
            raise ValueError(missing)
        of_known = [
            (probe, question)
            for probe in target.known()
            for question in as_questions(probe, seed)
        ]
        picks = np.random.default_rng(seed).permutation(len(of_known))[: self.facts]
        probe = of_known[0][0]
        known = facts(model, probe, [of_known[i][1] for i in sorted(picks)])
        asked = {
            probe.group: facts(model, probe, questions)
            for probe in target.probes
            if (questions := as_questions(probe, seed))
        }
        count = len(known.states)
        for layer in range(max(count - self.last, 0) if self.last else 0, count):
            read_of = {group: read(known, own, layer) for group, own in asked.items()}
            found = {
                group: {
                    multiple_choice.METRIC.name: _estimate(own, choice),
                    "known_left_out": _share(score, len(picks)),
                }
                for (group, own), (choice, score) in zip(
                    asked.items(), read_of.values(), strict=True
                )
            }
            yield Variant(
                f"read by a probe after layer {layer + 1}", model, None, found
            )


def _estimate(asked: Facts, choice: np.ndarray) -> Estimate:
    right, count = int((choice == np.array(asked.answers)).sum()), len(choice)
    chance = float(np.mean([1 / len(own) for own in asked.bags]))
    return Estimate(right / count, wilson_interval(right, count), count, chance)


def _share(score: float, count: int) -> Estimate:
    return Estimate(score, wilson_interval(round(score * count), count), count)
