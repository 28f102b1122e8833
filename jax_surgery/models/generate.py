# SPDX-License-Identifier: Apache-2.0
"""Generation with a key-value cache: greedy, or sampled.

Prompts are padded on the left to a common length, so that all rows write the same
cache slot; masks come from lengths. Lengths are rounded up to buckets, so that few
programs are compiled. What all prompts begin with, such as the system message of a chat
template, is read once for all, and a prompt of which several samples are drawn once for
all of them. Answers that have ended are left out on the way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_surgery.models import decoder, decoding, rope
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.sampling import Sampling
from jax_surgery.parallel import mesh as meshes

BUCKET = 32  # tokens; prompt lengths are rounded up to a multiple
LEAST_SHARED = (
    8  # tokens at the start of all prompts that are worth a pass of their own
)


def _shared_start(prompts: list[list[int]], config: ModelConfig) -> list[int]:
    """The tokens with which all prompts begin, a last one left to each; [] where they
    are too few to read them apart, or where angles depend on a text's length."""
    scalings = [scaling for _, scaling in config.layer_ropes]
    dynamic = any(isinstance(scaling, rope.DynamicScaling) for scaling in scalings)
    if len(prompts) < 2 or dynamic:
        return []
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    same = (n for n in range(most) if low[n] != high[n])
    count = next(same, most)
    return low[:count] if count >= LEAST_SHARED else []


def _stop_ids(eos: Any) -> tuple[int, ...]:
    if eos is None:
        return (-1,)
    return (tuple(eos) or (-1,)) if isinstance(eos, list | tuple) else (int(eos),)


def greedy_generate(
    params: decoder.Params,
    config: ModelConfig,
    prompts: list[list[int]],
    max_new_tokens: int,
    *,
    eos_id: int | Sequence[int] | None = None,
    compute: decoder.Compute = decoder.DEFAULT_COMPUTE,
    batch_rows: int = 32,
    watch: Callable[[int], object] = lambda rows: None,
) -> list[list[int]]:
    """Continues each prompt with its most likely token, step by step.

    Args:
      params, config: the model.
      prompts: token ids, each at least one.
      max_new_tokens: at most this many for each prompt.
      eos_id: token or tokens that end an answer (left out of it), mostly `Model.stops`;
        None takes the config's.
      compute: dtype and memory choices.
      batch_rows: so many prompts are run at once, at most about.
      watch: is told after each batch how many answers have come with it.

    Returns:
      New token ids of each prompt.

    Raises:
      ValueError: an empty prompt, or no new tokens asked for.
    """
    eos_id = config.eos_token_id if eos_id is None else eos_id
    how = decoding.How(max_new_tokens, _stop_ids(eos_id), 1, 0.0, 1.0)
    return _continue(params, config, prompts, how, None, compute, batch_rows, watch)


def sampled_generate(
    params: decoder.Params,
    config: ModelConfig,
    prompts: list[list[int]],
    max_new_tokens: int,
    chosen: Sampling,
    *,
    samples: int = 1,
    eos_id: int | Sequence[int] | None = None,
    compute: decoder.Compute = decoder.DEFAULT_COMPUTE,
    batch_rows: int = 32,
    watch: Callable[[int], object] = lambda rows: None,
) -> list[list[int]]:
    """Continues each prompt with tokens that are drawn, several times.

    The draws of a row depend on the seed and on the row's number in what is returned,
    and not on what else is in its batch.

    Args:
      chosen: temperature, nucleus and seed.
      samples: of each prompt, which is read once for all of them.
      eos_id, compute, batch_rows, watch: see `greedy_generate`; rows are samples.

    Returns:
      New token ids of each sample; those of a prompt are side by side.

    Raises:
      ValueError: an empty prompt, or no new tokens or samples asked for.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}; ask for 1 or more.")
    eos_id = config.eos_token_id if eos_id is None else eos_id
    shape = chosen.temperature, chosen.top_p
    how = decoding.How(max_new_tokens, _stop_ids(eos_id), samples, *shape)
    seed = chosen.seed
    return _continue(params, config, prompts, how, seed, compute, batch_rows, watch)


def _continue(
    params, config, prompts, how: decoding.How, seed, compute, batch_rows, watch
) -> list[list[int]]:
    """New token ids of each row; prompts of similar length share a batch."""
    if how.new_tokens < 1:
        raise ValueError(f"max_new_tokens={how.new_tokens}; ask for 1 or more.")
    empty = [i for i, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(
            f"prompt {empty[0]} has no tokens; begin it with the bos token at least."
        )
    if not prompts:
        return []
    each = how.samples
    answers: list[list[int]] = [[] for _ in range(len(prompts) * each)]
    shared, begun = _shared_start(prompts, config), None
    if shared:
        alike_BT = np.tile(np.asarray(shared, np.int32), (meshes.round_rows(1), 1))
        begun = decoding.read_shared(params, config, alike_BT, compute)
    own = [prompt[len(shared) :] for prompt in prompts]
    # Prompts of similar length share a batch, and batches are equally large.
    order = sorted(range(len(own)), key=lambda i: len(own[i]))
    batches = -(-len(order) // max(1, batch_rows // each))
    count = meshes.round_rows(-(-len(order) // max(1, batches)))
    for start in range(0, len(order), count):
        chosen = order[start : start + count]
        longest = max(len(own[i]) for i in chosen)
        width = -(-longest // BUCKET) * BUCKET
        tokens_PT = np.zeros((count, width), np.int32)
        lengths_P = np.zeros(count, np.int32)
        for row, i in enumerate(chosen):
            tokens_PT[row, width - len(own[i]) :] = own[i]
            lengths_P[row] = len(own[i])
        rows = [i * each + sample for i in chosen for sample in range(each)]
        drawn = None
        if seed is not None:
            numbers_B = np.zeros(count * each, np.int32)
            numbers_B[: len(rows)] = rows
            drawn = np.uint32(seed), numbers_B
        asked = tokens_PT, lengths_P, begun
        state = decoding.begin(params, config, *asked, compute, how, drawn)

        def go_on(state, step, steps):
            given = state, step, steps, len(shared)
            return decoding.go_on(params, config, *given, compute, how)

        out = decoding.write(state, how.new_tokens, go_on)
        for row, number in enumerate(rows):
            ids = out[row].tolist()
            end = next((n for n, t in enumerate(ids) if t in how.stops), len(ids))
            answers[number] = ids[:end]
        watch(len(rows))
    return answers
