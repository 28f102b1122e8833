# SPDX-License-Identifier: Apache-2.0
"""Generation with a key-value cache: greedy, or sampled.

Prompts are padded on the left to a common length, so that all rows write the same
cache slot; masks come from lengths. Lengths are rounded up to buckets, so that few
programs are compiled. What all prompts begin with, such as the system message of a chat
template, is read once for all, and a prompt of which several samples are drawn once for
all of them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models import attention as attn
from jax_surgery.models import decoder, logprobs, output_head, rope, sampling
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.sampling import Sampling
from jax_surgery.parallel import mesh as meshes

BUCKET = 32  # tokens; prompt lengths are rounded up to a multiple
LEAST_SHARED = (
    8  # tokens at the start of all prompts that are worth a pass of their own
)

Cache = tuple[jax.Array, jax.Array]  # keys and values of all layers, [L, B, S, K, H]


def _run(
    params, config, tokens_BT, start_B, shared, slot, cache: Cache, compute
) -> tuple[jax.Array, Cache]:
    """Runs tokens that lie in the cache from `slot` on; those before are there.

    Args:
      start_B: the slot of each row's first token that not all rows share.
      shared: how many tokens all rows share; they lie in the first slots.
      cache: updated in the loop over layers, so that nothing of it is copied.

    Returns:
      the last token's final hidden state [B, D], and the cache.
    """
    slots_S = jnp.arange(cache[0].shape[2])
    # Between what is shared and a row's own first token lies padding.
    own_BS = slots_S - start_B[:, None] + shared
    place_BS = jnp.where(slots_S < shared, slots_S, own_BS)
    real_BS = (slots_S < shared) | (slots_S >= start_B[:, None])
    slots_T = slot + jnp.arange(tokens_BT.shape[1])
    positions_BT = jnp.maximum(jnp.take(place_BS, slots_T, axis=1), 0)
    # Where scaling grows with the text, each call rotates for the text so far, as
    # transformers does; what lies in the cache stays as it is.
    lengths_B1 = positions_BT.max(axis=1, keepdims=True) + 1
    rope_of, rope_L = attn.by_rope(config, positions_BT, lengths_B1)
    age_BTS = positions_BT[:, :, None] - place_BS[:, None]
    past_TS = slots_T[:, None] >= slots_S

    def attention(window):
        seen_BTS = past_TS & (age_BTS < (window or len(slots_S))) & real_BS[:, None]
        bias = jnp.where(seen_BTS, 0.0, attn.MASKED)[:, None]
        return functools.partial(attn.attend, bias=bias, scores=config.scores)

    windows = attn.effective_windows(config, len(slots_S))
    attend_of, window_L = attn.by_window(windows, attention)

    def layer(carry, inputs):
        x, cached = carry[0], list(carry[1:])
        layer_params, which_window, which_rope, index = inputs

        def attend(q, k, v):
            cached[:] = (
                jax.lax.dynamic_update_slice(old, new[None], (index, 0, slot, 0, 0))
                for old, new in zip(cached, (k, v), strict=True)
            )
            return attend_of(which_window)(
                q, *(of_layers[index] for of_layers in cached)
            )

        block = decoder.block_of(config, layer_params)
        x, *_ = block(x, attend, *rope_of(which_rope))
        return (x, *cached), None

    x = decoder.embed(params, config, tokens_BT, compute)
    inputs = params["layers"], window_L, rope_L, jnp.arange(config.num_layers)
    (x, *cached), _ = jax.lax.scan(layer, (x, *cache), inputs)
    hidden_BD = decoder.final_norm(params, x[:, -1:], config)[:, 0]
    return hidden_BD, (cached[0], cached[1])


def _empty(config, rows: int, slots: int, compute) -> Cache:
    shape_LBS = (config.num_layers, rows, slots)
    shape = (*shape_LBS, config.num_kv_heads, config.head_dim)
    empty = jnp.zeros(shape, compute.dtype)
    empty = meshes.constrain(empty, None, meshes.ROWS, None, "tp")
    return empty, empty


@functools.partial(jax.jit, static_argnums=(1, 3))
def _read_shared(params, config, tokens_BT, compute) -> Cache:
    """Keys and values of what all prompts begin with, of one row, [L, 1, P, K, H]."""
    rows, width = tokens_BT.shape
    start_B = jnp.zeros(rows, jnp.int32)
    empty = _empty(config, rows, width, compute)
    _, cache = _run(params, config, tokens_BT, start_B, 0, 0, empty, compute)
    return cache[0][:, :1], cache[1][:, :1]


class _How(NamedTuple):
    """What a program of generation is compiled for.

    Attributes:
      new_tokens: at most, of each row.
      stops: tokens that end a row.
      samples: rows that each prompt has, side by side.
      temperature, top_p: of `Sampling`; a temperature of 0 is greedy.
    """

    new_tokens: int
    stops: tuple[int, ...]
    samples: int
    temperature: float
    top_p: float


@functools.partial(jax.jit, static_argnums=(1, 5, 6))
def _generate(params, config, tokens_PT, lengths_P, begun, compute, how, drawn):
    """New tokens of each row [B, new_tokens], what follows a stop among them.

    Args:
      tokens_PT: prompts; each has `how.samples` rows.
      lengths_P: of the prompts' own tokens; 0 in those that ask for nothing.
      begun: the cache of what all rows begin with (see `_read_shared`); None: nothing.
      drawn: (seed, number of each row [B]) where tokens are drawn; else None.
    """
    prompts, width = tokens_PT.shape
    rows, new_tokens = prompts * how.samples, how.new_tokens
    shared = begun[0].shape[2] if begun else 0
    head = output_head.of(params, config, compute.dtype)
    run = functools.partial(_run, params, config, shared=shared, compute=compute)
    keys_B = sampling.row_keys(*drawn) if drawn else None

    def choose(hidden_BD, step):
        logits_BV = logprobs.logits(hidden_BD, head)
        if keys_B is None:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
        return sampling.draw(step_keys_B, logits_BV, how.temperature, how.top_p)

    def stopped(token_B):
        return jnp.isin(token_B, jnp.array(how.stops, jnp.int32))

    def going_on(carry):
        step, _, _, done_B, _ = carry
        return (step < new_tokens - 1) & ~done_B.all()

    def body(carry):
        step, token_B, cache, done_B, out = carry
        slot = shared + width + step
        hidden, cache = run(token_B[:, None], start_B=start_B, slot=slot, cache=cache)
        token_B = choose(hidden, step + 1)
        out = jax.lax.dynamic_update_slice(out, token_B[:, None], (0, step + 1))
        return step + 1, token_B, cache, done_B | stopped(token_B), out

    start_B = shared + width - lengths_P
    cache: Any = _empty(config, prompts, shared + width + new_tokens, compute)
    if begun:
        cache = tuple(
            jax.lax.dynamic_update_slice(
                all_slots,
                jnp.broadcast_to(first, (len(first), prompts, *first.shape[2:])),
                (0, 0, 0, 0, 0),
            )
            for all_slots, first in zip(cache, begun, strict=True)
        )
    hidden, cache = run(tokens_PT, start_B=start_B, slot=shared, cache=cache)
    lengths_B = lengths_P
    if how.samples > 1:
        each = functools.partial(jnp.repeat, repeats=how.samples)
        hidden, cache = each(hidden, axis=0), tuple(each(x, axis=1) for x in cache)
        start_B, lengths_B = each(start_B), each(lengths_P)
    first = choose(hidden, 0)
    out = jnp.zeros((rows, new_tokens), jnp.int32).at[:, 0].set(first)
    done_B = stopped(first) | (lengths_B == 0)
    carry = (jnp.zeros((), jnp.int32), first, cache, done_B, out)
    return jax.lax.while_loop(going_on, body, carry)[4]


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
    how = _How(max_new_tokens, _stop_ids(eos_id), 1, 0.0, 1.0)
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
    how = _How(max_new_tokens, _stop_ids(eos_id), samples, *shape)
    seed = chosen.seed
    return _continue(params, config, prompts, how, seed, compute, batch_rows, watch)


def _continue(
    params, config, prompts, how: _How, seed, compute, batch_rows, watch
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
        begun = _read_shared(params, config, alike_BT, compute)
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
        found = _generate(params, config, *asked, compute, how, drawn)
        out = meshes.fetch(found)
        for row, number in enumerate(rows):
            ids = out[row].tolist()
            end = next((n for n, t in enumerate(ids) if t in how.stops), len(ids))
            answers[number] = ids[:end]
        watch(len(rows))
    return answers
