# SPDX-License-Identifier: Apache-2.0
"""Greedy generation with a key-value cache.

Prompts are padded on the left to a common length, so that all rows write the same
cache slot; masks come from lengths. Lengths are rounded up to buckets, so that few
programs are compiled.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models import attention as attn
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel import mesh as meshes

BUCKET = 32  # tokens; prompt lengths are rounded up to a multiple


def _run(params, config, tokens_BT, positions_BT, start_B, slot, cache, compute):
    """Runs tokens that lie in the cache from `slot` on; those before are there.

    Args:
      start_B: the slot of each row's first token.
      cache: keys and values of each layer, [L, B, S, K, H] each.

    Returns:
      the last token's final hidden state [B, D], and the cache.
    """
    # Where scaling grows with the text, each call rotates for the text so far, as
    # transformers does; what lies in the cache stays as it is.
    lengths_B1 = positions_BT.max(axis=1, keepdims=True) + 1
    rope_of, rope_L = attn.by_rope(config, positions_BT, lengths_B1)
    slots_S = jnp.arange(cache[0].shape[2])
    age_TS = (slot + jnp.arange(tokens_BT.shape[1]))[:, None] - slots_S
    real_BS = slots_S >= start_B[:, None]

    def attention(window):
        seen_TS = (age_TS >= 0) & (age_TS < (window or len(slots_S)))
        bias = jnp.where(seen_TS & real_BS[:, None], 0.0, attn.MASKED)[:, None]
        return functools.partial(attn.attend, bias=bias, scores=config.scores)

    windows = attn.effective_windows(config, len(slots_S))
    attend_of, window_L = attn.by_window(windows, attention)

    def layer(x, inputs):
        layer_params, which_window, which_rope, *cached = inputs

        def attend(q, k, v):
            cached[:] = (
                jax.lax.dynamic_update_slice(old, new, (0, slot, 0, 0))
                for old, new in zip(cached, (k, v), strict=True)
            )
            return attend_of(which_window)(q, *cached)

        block = decoder.block_of(config, layer_params)
        x, _ = block(x, attend, *rope_of(which_rope))
        return x, tuple(cached)

    x = decoder.embed(params, config, tokens_BT, compute)
    inputs = params["layers"], window_L, rope_L, *cache
    x, cache = jax.lax.scan(layer, x, inputs)
    return decoder.final_norm(params, x[:, -1:], config)[:, 0], cache


@functools.partial(jax.jit, static_argnums=(1, 4, 5, 6))
def _generate(params, config, tokens_BT, lengths_B, new_tokens, stop_ids, compute):
    rows, width = tokens_BT.shape
    start_B = width - lengths_B
    head = output_head.of(params, config, compute.dtype)
    run = functools.partial(_run, params, config, compute=compute, start_B=start_B)

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
        hidden, cache = run(
            token_B[:, None],
            (lengths_B + step)[:, None],
            slot=width + step,
            cache=cache,
        )
        token_B = choose(hidden)
        out = jax.lax.dynamic_update_slice(out, token_B[:, None], (0, step + 1))
        return step + 1, token_B, cache, done_B | stopped(token_B), out

    shape_LBS = (config.num_layers, rows, width + new_tokens)
    shape = (*shape_LBS, config.num_kv_heads, config.head_dim)
    empty = jnp.zeros(shape, compute.dtype)
    empty = meshes.constrain(empty, None, meshes.ROWS, None, "tp")
    positions_BT = jnp.maximum(jnp.arange(width) - start_B[:, None], 0)
    hidden, cache = run(tokens_BT, positions_BT, slot=0, cache=(empty, empty))
    first = choose(hidden)
    out = jnp.zeros((rows, new_tokens), jnp.int32).at[:, 0].set(first)
    carry = (jnp.zeros((), jnp.int32), first, cache, stopped(first), out)
    return jax.lax.while_loop(going_on, body, carry)[4]


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
      batch_rows: at least this many prompts are run at once.

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
    # Prompts of similar length share a batch.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    batch_rows = meshes.round_rows(batch_rows)
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        longest = max(len(prompts[i]) for i in chosen)
        width = -(-longest // BUCKET) * BUCKET
        tokens_BT = np.zeros((batch_rows, width), np.int32)
        lengths_B = np.ones(batch_rows, np.int32)
        for row, i in enumerate(chosen):
            tokens_BT[row, width - len(prompts[i]) :] = prompts[i]
            lengths_B[row] = len(prompts[i])
        # The answers of rows without a prompt are not read.
        out = meshes.fetch(
            _generate(
                params, config, tokens_BT, lengths_B, max_new_tokens, stops, compute
            )
        )
        for row, i in enumerate(chosen):
            ids = out[row].tolist()
            end = next((n for n, t in enumerate(ids) if t in stops), len(ids))
            answers[i] = ids[:end]
    return answers
