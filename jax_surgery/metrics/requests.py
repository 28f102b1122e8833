# SPDX-License-Identifier: Apache-2.0
"""What lm-evaluation-harness asks of a model, on tokens: continuations scored, or written.

Nothing here needs the harness; `metrics.harness` is the adapter.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.generate import greedy_generate, sampled_generate
from jax_surgery.models.model import Model
from jax_surgery.models.sampling import Sampling
from jax_surgery.parallel import mesh as meshes

LEAST_ROW = (
    256  # tokens of a row, at least; longer texts stand in rows of up to twice theirs
)
BATCH_TOKENS = 1 << 14  # of a forward pass, about
FIRST_TOKENS = 32  # that are written before it is asked whether a reply has ended

# Tokens that are given, and those that are to follow.
Pair = tuple[Sequence[int], Sequence[int]]


@functools.partial(jax.jit, static_argnums=(1, 4))
def _of_rows(params, config, batch, candidates_BTK, compute):
    hidden = decoder.forward_packed(params, config, batch, compute=compute)
    head = output_head.copies(params, config, compute)
    return logprobs.likeliest_tokens(hidden, head, candidates_BTK)


def score_continuations(
    model: Model, pairs: Sequence[Pair], context: int
) -> list[tuple[float, bool]]:
    """Log-likelihoods of continuations, and whether greedy decoding gives them.

    Texts that differ in their last token alone, such as a question with the letters of its
    choices, are read once.

    Args:
      pairs: (given tokens, continuation), each at least one token; of longer ones than
        the context the last tokens are read.
      context: tokens that the model reads at most.

    Returns:
      (sum of log p of the continuation, nats; whether every token is the likeliest).

    Raises:
      ValueError: nothing given, an empty continuation, or one longer than the context.
    """
    texts: dict[tuple[int, ...], list[int]] = {}
    for number, (given, following) in enumerate(pairs):
        if not len(given) or not 0 < len(following) <= context:
            raise ValueError(
                f"request {number} gives {len(given)} tokens and asks for "
                f"{len(following)}; at least one must be given, and from 1 to "
                f"config.max_length={context} asked for."
            )
        read = (*given, *following)[-(context + 1) : -1]
        texts.setdefault(read, []).append(number)
    sizes: dict[int, list[tuple[int, ...]]] = {}
    for text in texts:
        row = LEAST_ROW
        while row < len(text):
            row *= 2
        sizes.setdefault(row, []).append(text)
    found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
    for row, alike in sorted(sizes.items()):
        _score(model, pairs, {text: texts[text] for text in alike}, row, found)
    return found


def _score(
    model: Model,
    pairs: Sequence[Pair],
    texts: dict[tuple[int, ...], list[int]],
    row: int,
    found: list[tuple[float, bool]],
) -> None:
    """Fills in what is asked after texts that fit a row."""
    documents, asked, start = [], [], 0
    for text, numbers in texts.items():
        tokens = np.asarray(text, np.int32)
        documents.append(Document(tokens, np.ones(len(tokens), bool), ""))
        for number in numbers:
            following = pairs[number][1]
            first = start + len(text) - len(following)
            asked += [(first + i, t, number) for i, t in enumerate(following)]
        start += len(text)
    after, wanted, numbers = np.asarray(asked, np.int64).T
    known, place = np.unique(after, return_inverse=True)
    # Of each place the column in which each of its requests stands.
    order = np.argsort(place, kind="stable")
    firsts = np.searchsorted(place[order], np.arange(len(known)))
    column = np.empty(len(place), np.int64)
    column[order] = np.arange(len(place)) - firsts[place[order]]
    tokens = np.zeros((len(known), 1 + column.max()), np.int32)
    tokens[place, column] = wanted
    places = np.full(start + 1, -1)  # one more for padding, whose index is -1
    places[known] = np.arange(len(known))
    logp, likeliest = np.zeros(tokens.shape), np.zeros(len(known), np.int32)
    rows = Packer(documents, row, "tokens").pack()
    count = meshes.round_rows(min(len(rows), max(1, BATCH_TOKENS // row)))
    for batch in one_pass(rows, count, "scoring requests"):
        places_BT = places[batch.token_index_BT]
        here_BT = places_BT >= 0
        of_rows = batch.for_devices(), tokens[places_BT], model.compute
        best_BT, logp_BTK = _of_rows(model.params, model.config, *of_rows)
        logp[places_BT[here_BT]] = meshes.fetch(logp_BTK)[here_BT]
        likeliest[places_BT[here_BT]] = meshes.fetch(best_BT)[here_BT]
    sums = np.bincount(numbers, logp[place, column], minlength=len(pairs))
    missed = np.bincount(numbers, likeliest[place] != wanted, minlength=len(pairs))
    for number in np.unique(numbers).tolist():
        found[number] = float(sums[number]), not missed[number]


def write_until(
    model: Model,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    ended: Callable[[list[int]], bool],
    drawn: Sampling | None = None,
) -> list[list[int]]:
    """What a model writes after prompts; a greedy reply that has ended is not gone on with.

    Args:
      prompts: token ids, each at least one.
      new_tokens: of each, at most.
      ended: whether a reply holds what ends it; it may go on behind that.
      drawn: how tokens are drawn; None takes the likeliest.

    Raises:
      ValueError: see `generate.greedy_generate`.
    """
    asked = [list(prompt) for prompt in prompts]
    of = (model.params, model.config)
    how = {"eos_id": model.stops, "compute": model.compute}
    if drawn is not None:
        return sampled_generate(*of, asked, new_tokens, drawn, **how)
    found: list[list[int]] = [[] for _ in asked]
    going, done = list(range(len(asked))), 0
    while going and done < new_tokens:
        count = min(max(done, FIRST_TOKENS), new_tokens - done)
        begun = [asked[i] + found[i] for i in going]
        more = greedy_generate(*of, begun, count, **how)
        for i, ids in zip(going, more, strict=True):
            found[i] += ids
        pairs = zip(going, more, strict=True)
        going = [i for i, ids in pairs if len(ids) == count and not ended(found[i])]
        done += count
    return found
