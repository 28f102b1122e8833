# SPDX-License-Identifier: Apache-2.0
"""Greedy generation with a key-value cache.

Prompts are padded on the left to a common length, so that all rows write the same
cache slot; masks come from lengths. Lengths are rounded up to buckets, so that few
programs are compiled. What all prompts begin with, such as the system message of a chat
template, is read once for all.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models import attention as attn
from jax_surgery.models import decoder, logprobs, output_head, rope
from jax_surgery.models.config import ModelConfig
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
        x, _ = block(x, attend, *rope_of(which_rope))
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


@functools.partial(jax.jit, static_argnums=(1, 5, 6, 7))
def _generate(
    params, config, tokens_BT, lengths_B, begun, new_tokens, stop_ids, compute
):
    """New tokens of each row [B, new_tokens], what follows a stop among them.

    Args:
      lengths_B: of the rows' own tokens; 0 in rows that ask for nothing.
      begun: the cache of what all rows begin with (see `_read_shared`); None: nothing.
    """
    rows, width = tokens_BT.shape
    shared = begun[0].shape[2] if begun else 0
    start_B = shared + width - lengths_B
    head = output_head.of(params, config, compute.dtype)
    run = functools.partial(
        _run, params, config, start_B=start_B, shared=shared, compute=compute
    )

    def choose(hidden_BD):
        logits_BV = logprobs.logits(hidden_BD, head)
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def stopped(token_B):
        return jnp.isin(token_B, jnp.array(stop_ids, jnp.int32))

    def going_on(carry):
        step, _, _, done_B, _ = carry
        return (step < new_tokens - 1) & ~done_B.all()

    def body(carry):
        step, token_B, cache, done_B, out = carry
        slot = shared + width + step
        hidden, cache = run(token_B[:, None], slot=slot, cache=cache)
        token_B = choose(hidden)
        out = jax.lax.dynamic_update_slice(out, token_B[:, None], (0, step + 1))
        return step + 1, token_B, cache, done_B | stopped(token_B), out

    cache = _empty(config, rows, shared + width + new_tokens, compute)
    if begun:
        cache = tuple(
            jax.lax.dynamic_update_slice(
                all_slots,
                jnp.broadcast_to(first, (len(first), rows, *first.shape[2:])),
                (0, 0, 0, 0, 0),
            )
            for all_slots, first in zip(cache, begun, strict=True)
        )
    hidden, cache = run(tokens_BT, slot=shared, cache=cache)
    first = choose(hidden)
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

    Returns:
      New token ids of each prompt.

    Raises:
      ValueError: an empty prompt, or no new tokens asked for.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}; ask for 1 or more.")
    empty = [i for i, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(
            f"prompt {empty[0]} has no tokens; begin it with the bos token at least."
        )
    stops = _stop_ids(config.eos_token_id if eos_id is None else eos_id)
    answers: list[list[int]] = [[] for _ in prompts]
    shared, begun = _shared_start(prompts, config), None
    if shared:
        alike_BT = np.tile(np.asarray(shared, np.int32), (meshes.round_rows(1), 1))
        begun = _read_shared(params, config, alike_BT, compute)
    own = [prompt[len(shared) :] for prompt in prompts]
    # Prompts of similar length share a batch, and batches are equally large.
    order = sorted(range(len(own)), key=lambda i: len(own[i]))
    batches = -(-len(order) // batch_rows)
    batch_rows = meshes.round_rows(-(-len(order) // max(1, batches)))
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        longest = max(len(own[i]) for i in chosen)
        width = -(-longest // BUCKET) * BUCKET
        tokens_BT = np.zeros((batch_rows, width), np.int32)
        lengths_B = np.zeros(batch_rows, np.int32)
        for row, i in enumerate(chosen):
            tokens_BT[row, width - len(own[i]) :] = own[i]
            lengths_B[row] = len(own[i])
        asked = tokens_BT, lengths_B, begun
        found = _generate(params, config, *asked, max_new_tokens, stops, compute)
        out = meshes.fetch(found)
        for row, i in enumerate(chosen):
            ids = out[row].tolist()
            end = next((n for n, t in enumerate(ids) if t in stops), len(ids))
            answers[i] = ids[:end]
    return answers
