# SPDX-License-Identifier: Apache-2.0
"""The programs of generation: a key-value cache, and steps that write into it.

All rows write the same cache slot; masks come from lengths. `models.generate` chooses
which rows are written together. B rows, P prompts, S slots of the cache, T tokens of a
step; the other letters are those of `models.layout`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models import attention as attn
from jax_surgery.models import decoder, logprobs, output_head, sampling
from jax_surgery.models.config import Scores
from jax_surgery.parallel import mesh as meshes

FEWER = 4  # rows become fewer by this factor, so that few programs are compiled
SEGMENT = 32  # tokens of answers after which those that have ended are left out

# Keys and values of all layers, [L, B, K, S, H]: the products of a step read them as they
# lie.
Cache = tuple[jax.Array, jax.Array]


def _attend(q_BTNH, k_BKSH, v_BKSH, bias, scores: Scores) -> jax.Array:
    """`attention.attend` of keys and values as the cache holds them, which nothing copies:
    the queries of N / K heads are put side by side.

    Args:
      bias: [B, 1, T, S].
    """
    rows, tokens, heads, width = q_BTNH.shape
    groups = heads // k_BKSH.shape[1]
    scaled = q_BTNH * jnp.asarray(attn.scale_of(scores, width), q_BTNH.dtype)
    # Heads are K x groups; X is groups x tokens.
    q_BKGTH = scaled.reshape(rows, tokens, -1, groups, width).transpose(0, 2, 3, 1, 4)
    products_BKXS = jnp.einsum(
        "BKXH,BKSH->BKXS",
        q_BKGTH.reshape(rows, -1, groups * tokens, width),
        k_BKSH,
        preferred_element_type=jnp.float32,
    )
    capped = attn.softcapped(products_BKXS, scores.softcap)
    weights = jax.nn.softmax(capped + jnp.tile(bias, (1, 1, groups, 1)), axis=-1)
    context_BKXH = jnp.einsum("BKXS,BKSH->BKXH", weights.astype(v_BKSH.dtype), v_BKSH)
    context_BKGTH = context_BKXH.reshape(rows, -1, groups, tokens, width)
    return context_BKGTH.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, heads, width)


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
    slots_S = jnp.arange(cache[0].shape[3])
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
        return functools.partial(_attend, bias=bias, scores=config.scores)

    windows = attn.effective_windows(config, len(slots_S))
    attend_of, window_L = attn.by_window(windows, attention)

    def layer(carry, inputs):
        x, cached = carry[0], list(carry[1:])
        layer_params, which_window, which_rope, index = inputs

        def attend(q, k, v):
            cached[:] = (
                jax.lax.dynamic_update_slice(
                    old, new.swapaxes(1, 2)[None], (index, 0, 0, slot, 0)
                )
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
    shape = (config.num_layers, rows, config.num_kv_heads, slots, config.head_dim)
    empty = jnp.zeros(shape, compute.dtype)
    empty = meshes.constrain(empty, None, meshes.ROWS, "tp")
    return empty, empty


@functools.partial(jax.jit, static_argnums=(1, 3))
def read_shared(params, config, tokens_BT, compute) -> Cache:
    """Keys and values of what all prompts begin with, of one row, [L, 1, K, P, H]."""
    rows, width = tokens_BT.shape
    start_B = jnp.zeros(rows, jnp.int32)
    empty = _empty(config, rows, width, compute)
    _, cache = _run(params, config, tokens_BT, start_B, 0, 0, empty, compute)
    return cache[0][:, :1], cache[1][:, :1]


class How(NamedTuple):
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


class State(NamedTuple):
    """Rows that are being written; B of them.

    Attributes:
      token_B: the last token of each.
      cache: keys and values of all before it.
      start_B: see `_run`.
      done_B: whether each has ended.
      keys_B: of random draws; None where the likeliest tokens are taken.
    """

    token_B: jax.Array
    cache: Cache
    start_B: jax.Array
    done_B: jax.Array
    keys_B: jax.Array | None


def _choose(head, hidden_BD, keys_B, step, how: How):
    """The next token of each row, int32 [B], and whether it ends the row."""
    logits_BV = logprobs.logits(hidden_BD, head)
    if keys_B is None:
        token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    else:
        step_keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
        token_B = sampling.draw(step_keys_B, logits_BV, how.temperature, how.top_p)
    return token_B, jnp.isin(token_B, jnp.array(how.stops, jnp.int32))


@functools.partial(jax.jit, static_argnums=(1, 5, 6))
def begin(params, config, tokens_PT, lengths_P, begun, compute, how: How, drawn):
    """Reads prompts, and writes the first token of each row.

    Args:
      tokens_PT: prompts; each has `how.samples` rows.
      lengths_P: of the prompts' own tokens; 0 in those that ask for nothing.
      begun: the cache of what all rows begin with (see `read_shared`); None: nothing.
      drawn: (seed, number of each row [B]) where tokens are drawn; else None.
    """
    prompts, width = tokens_PT.shape
    shared = begun[0].shape[3] if begun else 0
    start_B = shared + width - lengths_P
    cache: Any = _empty(config, prompts, shared + width, compute)
    if begun:
        cache = tuple(
            jax.lax.dynamic_update_slice(
                all_slots,
                jnp.broadcast_to(first, (len(first), prompts, *first.shape[2:])),
                (0, 0, 0, 0, 0),
            )
            for all_slots, first in zip(cache, begun, strict=True)
        )
    hidden, cache = _run(
        params, config, tokens_PT, start_B, shared, shared, cache, compute
    )
    lengths_B = lengths_P
    if how.samples > 1:
        each = functools.partial(jnp.repeat, repeats=how.samples)
        hidden, cache = each(hidden, axis=0), tuple(each(x, axis=1) for x in cache)
        start_B, lengths_B = each(start_B), each(lengths_P)
    keys_B = sampling.row_keys(*drawn) if drawn else None
    head = output_head.of(params, config, compute.dtype)
    token_B, ended_B = _choose(head, hidden, keys_B, 0, how)
    done_B = ended_B | (lengths_B == 0)
    return State(token_B, (cache[0], cache[1]), start_B, done_B, keys_B)


@functools.partial(jax.jit, static_argnums=2)
def _with_room(state: State, rows_B, room: int) -> State:
    """Some rows, the others left out, with free slots in the cache.

    Args:
      rows_B: their places; -1 for one that asks for nothing.
      room: slots.
    """

    def slots(cache):
        more = jnp.pad(cache[:, rows_B], [(0, 0)] * 3 + [(0, room), (0, 0)])
        return meshes.constrain(more, None, meshes.ROWS, "tp")

    keys_B = None if state.keys_B is None else state.keys_B[rows_B]
    return State(
        state.token_B[rows_B],
        (slots(state.cache[0]), slots(state.cache[1])),
        state.start_B[rows_B],
        state.done_B[rows_B] | (rows_B < 0),
        keys_B,
    )


@functools.partial(jax.jit, static_argnums=(1, 4, 5, 6, 7), donate_argnums=2)
def go_on(params, config, state: State, step, steps, shared, compute, how: How):
    """Writes `steps` more tokens to each row, [B, steps], those after a stop among them,
    into the last slots of the cache; ends before where all rows have.

    Args:
      step: number of the first of them in the answer.
      steps: how many; as many slots are free.
      shared: see `_run`.
    """
    first_slot = state.cache[0].shape[3] - steps
    # Once, and not in every step.
    head = output_head.of(params, config, compute.dtype)
    params = params | {"layers": decoder.in_compute_dtype(params["layers"], compute)}

    def going_on(carry):
        done, state, _ = carry
        return (done < steps) & ~state.done_B.all()

    def body(carry):
        done, state, out = carry
        hidden, cache = _run(
            params,
            config,
            state.token_B[:, None],
            state.start_B,
            shared,
            first_slot + done,
            state.cache,
            compute,
        )
        token_B, ended_B = _choose(head, hidden, state.keys_B, step + done, how)
        out = jax.lax.dynamic_update_slice(out, token_B[:, None], (0, done))
        done_B = state.done_B | ended_B
        state = state._replace(token_B=token_B, cache=cache, done_B=done_B)
        return done + 1, state, out

    out = jnp.zeros((len(state.token_B), steps), jnp.int32)
    carry = (jnp.zeros((), jnp.int32), state, out)
    _, state, out = jax.lax.while_loop(going_on, body, carry)
    return out, state


def write(
    state: State, new_tokens: int, go_on: Callable[[State, int, int], tuple]
) -> np.ndarray:
    """All tokens of each row [B, new_tokens], what follows a stop among them.

    Rows are looked at after `SEGMENT` tokens, and whenever as many again are written:
    those that have ended are left out, and the cache grows. So a batch takes neither the
    time nor the memory of its longest answer for all its rows.

    Args:
      go_on: the function above, of (state, step, steps).
    """
    rows = np.arange(len(state.token_B))
    out = np.zeros((len(rows), new_tokens), np.int32)
    out[:, 0] = meshes.fetch(state.token_B)
    step, sizes = 1, [len(rows)]
    while (size := meshes.round_rows(-(-sizes[-1] // FEWER))) < sizes[-1]:
        sizes.append(size)
    while step < new_tokens:
        alive = np.flatnonzero(~meshes.fetch(state.done_B))
        alive = alive[rows[alive] >= 0]
        if not len(alive):
            break
        steps = min(max(SEGMENT, step - 1), new_tokens - step)
        kept = np.full(min(size for size in sizes if size >= len(alive)), -1)
        kept[: len(alive)] = alive
        rows = np.where(kept >= 0, rows[kept], -1)
        state = _with_room(state, kept, steps)
        found, state = go_on(state, step, steps)
        out[rows[: len(alive)], step : step + steps] = meshes.fetch(found)[: len(alive)]
        step += steps
    return out
