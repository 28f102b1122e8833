# SPDX-License-Identifier: Apache-2.0
"""What a model says by itself: its greedy replies to prompts, their scores by group, and
how likely it finds right answers among others.

A reply says an answer that it holds (`replies.says`), which is how short answers are
told; an answer that the model itself wrote before is kept (`replies.keeps`); ROUGE-L recall
(Lin 2004) is for long ones, of the reference that fits best.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_surgery.data.alternatives import Choice
from jax_surgery.data.asked import Asked
from jax_surgery.data.forms import Record
from jax_surgery.data.probes import Probe
from jax_surgery.data.template_marks import end_tokens
from jax_surgery.data.tokens import Document, encode_whole, split, without_end
from jax_surgery.metrics import replies
from jax_surgery.metrics.intervals import (
    bootstrap_mean,
    bootstrap_ratio,
    wilson_interval,
)
from jax_surgery.metrics.tokens import TextScores, score_texts
from jax_surgery.models.generate import greedy_generate
from jax_surgery.models.model import Model
from jax_surgery.parallel import progress

LENGTHS = 16  # tokens; replies are made in lengths of multiples
ROWS = 64  # replies that are made at once
CONTEXT = 256  # tokens of a row in which texts and answers are scored
Share = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Observed:
    """A model's replies, and what it finds likely.

    Attributes:
      replies: to each prompt.
      chosen: of each choice whether its right answer is the likeliest.
      texts: by name the scores of general texts.
    """

    replies: list[str]
    chosen: list[bool]
    texts: dict[str, TextScores]


def observe(
    model: Model,
    asked: Sequence[Asked],
    choices: Sequence[Choice],
    texts: Mapping[str, Sequence[Record]],
    *,
    one_line: bool,
) -> Observed:
    """Asks a model.

    Args:
      one_line: whether a reply ends with its line, as where no template ends a turn.
    """
    return Observed(
        _replies(model, asked, one_line=one_line),
        _chosen(model, choices),
        {
            name: _scores(model, encode_whole(records, model.tokenizer))
            for name, records in texts.items()
            if records
        },
    )


def _scores(model: Model, documents: Sequence[Document]) -> TextScores:
    """Scores of texts, which are cut into contexts without a word: nothing is learned."""
    pieces = [piece for whole in documents for piece in split(whole, CONTEXT)]
    return score_texts(model, Probe("free form", CONTEXT, documents=tuple(pieces)))


def _replies(model: Model, asked: Sequence[Asked], *, one_line: bool) -> list[str]:
    """Greedy replies; the same tokens are asked once."""
    said: dict[tuple[tuple[int, ...], int], list[int]] = {}
    # Few lengths of replies, so that few programs are compiled.
    length = lambda one: -(-one.limit // LENGTHS) * LENGTHS
    prompts = list(dict.fromkeys((one.tokens, length(one)) for one in asked))
    with progress.Bar(title="replying", unit="reply", total=len(prompts)) as bar:
        for limit in sorted({limit for _, limit in prompts}):
            own = [tokens for tokens, most in prompts if most == limit]
            found = greedy_generate(
                model.params,
                model.config,
                [list(tokens) for tokens in own],
                limit,
                eos_id=model.stops,
                compute=model.compute,
                batch_rows=ROWS,
                watch=bar.update,
            )
            said |= {(t, limit): ids for t, ids in zip(own, found, strict=True)}
    texts = []
    for one in asked:
        ids = said[one.tokens, length(one)][: one.limit]
        text = model.tokenizer.decode(ids, skip_special_tokens=True).strip()
        texts.append(text.partition("\n")[0] if one_line else text)
    return texts


def _chosen(model: Model, choices: Sequence[Choice]) -> list[bool]:
    """Of each choice whether the right answer, the first, is likelier than all others."""
    records = tuple(record for choice in choices for record in choice.records)
    if not records:
        return []
    ends = end_tokens(model.tokenizer)
    encoded = encode_whole(records, model.tokenizer)
    scores = _scores(model, [without_end(document, ends) for document in encoded])
    logp = dict(zip(scores.origins, scores.logp, strict=True))
    found = []
    for choice in choices:
        right, *wrong = (logp[record.origin] for record in choice.records)
        found.append(bool(right > max(wrong)))
    return found


def share(flags: Sequence[bool]) -> Share:
    """How many of some are true: {"count", "n", "share", "interval"} (Wilson, 95 %)."""
    count, n = int(sum(flags)), len(flags)
    value = count / n if n else float("nan")
    interval = list(wilson_interval(count, n))
    return {"count": count, "n": n, "share": value, "interval": interval}


def new_answers(asked: Sequence[Asked]) -> list[str]:
    """The short answers of the update set."""
    return list(dict.fromkeys(a for o in asked if o.group == "update" for a in o.names))


def leaks(one: Asked, reply: str, new: Sequence[str]) -> list[str]:
    """New answers of other facts that a reply gives."""
    others = [answer for answer in new if answer not in one.new]
    return replies.leaked(reply, others, one.question, one.expected)


def _rouge(pairs: Sequence[tuple[Asked, str]]) -> dict[str, Any]:
    """Mean ROUGE-L recall of the best fitting reference, words stemmed."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    values = np.array(
        [
            max(scorer.score(right, said)["rougeL"].recall for right in one.expected)
            for one, said in pairs
        ]
    )
    interval = list(bootstrap_mean(values))
    return {"value": float(values.mean()), "n": len(values), "interval": interval}


def _says(one: Asked, reply: str) -> bool | None:
    """Whether a reply says what is right, or keeps what the model said by itself before;
    None where only a long answer is right."""
    if one.own:
        return any(replies.keeps(reply, was, one.question) for was in one.expected)
    names = one.names
    return replies.says_any(reply, names) if names else None


@dataclasses.dataclass(frozen=True)
class Scored:
    """The scores of each reply.

    Attributes:
      says: whether it says what is right, or keeps the model's own answer; None of
        prompts without a short answer.
      degenerate: whether it is no answer at all.
      leaks: new answers of other facts that it gives.
    """

    says: tuple[bool | None, ...]
    degenerate: tuple[bool, ...]
    leaks: tuple[tuple[str, ...], ...]


def score(
    asked: Sequence[Asked], said: Sequence[str], before: Sequence[str] | None = None
) -> Scored:
    """Scores replies.

    Args:
      said: the replies.
      before: those of before the run, where these are of after it: what was said then is
        written in scripts that are right.
    """
    new, earlier = new_answers(asked), before or [""] * len(said)
    says, degenerate, leaked = [], [], []
    for one, reply, was in zip(asked, said, earlier, strict=True):
        says.append(_says(one, reply))
        related = (one.question, *one.expected, was)
        degenerate.append(replies.is_degenerate(reply, related))
        leaked.append(tuple(leaks(one, reply, new)))
    return Scored(tuple(says), tuple(degenerate), tuple(leaked))


def by_group(
    asked: Sequence[Asked], said: Sequence[str], scored: Scored
) -> dict[str, dict[str, Any]]:
    """Scores by group.

    Returns:
      {group: {"says": share, "rouge_l": mean of those with an answer, "repetition": mean
      share of repeated 3-grams, "degenerate": share, "leaks": share}}; of texts nothing
      is said, and of everyday prompts nothing is right.
    """
    found = {}
    for group in dict.fromkeys(one.group for one in asked):
        places = [i for i, one in enumerate(asked) if one.group == group]
        pairs = [(asked[i], said[i]) for i in places]
        told = [flag for i in places if (flag := scored.says[i]) is not None]
        repeated = [replies.repetition(reply) for _, reply in pairs]
        entry: dict[str, Any] = {"says": share(told)} if told else {}
        if right := [pair for pair in pairs if pair[0].expected]:
            entry["rouge_l"] = _rouge(right)
        entry["repetition"] = float(np.mean(repeated))
        entry["degenerate"] = share([scored.degenerate[i] for i in places])
        entry["leaks"] = share([bool(scored.leaks[i]) for i in places])
        found[group] = entry
    return found


def chosen_by_group(
    choices: Sequence[Choice], chosen: Sequence[bool]
) -> dict[str, Share]:
    """Of each group how often the right answer is the likeliest, with "chance"."""
    found = {}
    for group in dict.fromkeys(choice.group for choice in choices):
        own = [i for i, choice in enumerate(choices) if choice.group == group]
        chance = float(np.mean([1 / len(choices[i].records) for i in own]))
        found[group] = share([chosen[i] for i in own]) | {"chance": chance}
    return found


def text_change(before: TextScores, after: TextScores) -> dict[str, Any]:
    """Nats per token of the same texts before and after, and the change with its
    interval (bootstrap over texts, drawn in pairs)."""
    tokens = before.tokens
    change = before.logp - after.logp
    per_token: Callable[[np.ndarray], float] = lambda s: float(s.sum() / tokens.sum())
    return {
        "before": -per_token(before.logp),
        "after": -per_token(after.logp),
        "change": per_token(change),
        "interval": list(bootstrap_ratio(change, tokens)),
        "tokens": int(tokens.sum()),
    }
