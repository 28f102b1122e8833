# SPDX-License-Identifier: Apache-2.0
"""Causal self-attention within packed segments: one function, a kernel for each chip.

splash  TPU: JAX's block-sparse flash attention in Pallas, under `shard_map`
cudnn   GPU: cuDNN's flash attention, for bfloat16
xla     anywhere: plain products; holds the T x T scores but most of the masked ones
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from jax_surgery.models import attention as attn
from jax_surgery.models import rope
from jax_surgery.models.attention import Attend
from jax_surgery.models.config import ModelConfig, Scores
from jax_surgery.parallel import mesh as meshes

Kind = Literal["auto", "xla", "splash", "cudnn"]
KINDS = ("auto", "xla", "splash", "cudnn")
# name of the kernel's output for remat policies
CONTEXT = "context"

LANES = 128  # splash's blocks are multiples of it
BLOCKS = (1024, 512, 384, 256, 128)  # tokens per block, the largest that divides
# Tokens of a block times the width of a head, at most: with heads of 256 the backward
# kernel's blocks of 1024 need 18.7 MiB of a v5e's 16 MiB, by its compiler.
BLOCK_VALUES = 1024 * 128
SKIPPED = 512  # of "cudnn": tokens of a row above which hidden blocks are left out
PARTS, SHORTEST = 4, 32  # of "xla": blocks of queries, and tokens that one has at least


def choose(platform: str, dtype: str, scores: Scores = attn.PLAIN) -> Kind:
    """The attention of a platform ("cpu", "gpu" or "tpu").

    cuDNN's kernel takes 16-bit numbers only, caps no scores, and takes wide heads on
    new GPUs only.
    """
    if platform == "tpu":
        return "splash"
    fits = dtype == "bfloat16" and scores.softcap is None
    if platform == "gpu" and fits and scores.width <= _widest_head():
        return "cudnn"
    return "xla"


def _widest_head() -> int:
    """The width of the widest heads that cuDNN's kernel takes on the GPU here: by
    JAX's own rule 256 from compute capability 9 (Hopper) on, 128 from 8 (Ampere) on, and
    none below (a T4 has 7.5)."""
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    major = capability.split(".")[0]
    if not major.isdecimal():
        return 128
    return 256 if int(major) >= 9 else 128 if int(major) >= 8 else 0


def self_attention(
    kind: Kind,
    segment_ids_BT: jax.Array,
    dtype: str,
    window: int = 0,
    interpret: bool = False,
    scores: Scores = attn.PLAIN,
    begins_BT: jax.Array | None = None,
) -> Attend:
    """The function `attend(q_BTNH, k_BTKH, v_BTKH) -> [B, T, N, H]`.

    A token sees its own segment up to itself, or the last `window` tokens of that;
    padding (segment 0) sees padding. N / K query heads share a key-value head.

    Args:
      kind: one of `KINDS`; "auto" is `choose` for the mesh's platform.
      segment_ids_BT: packed documents 1, 2, ..., padding 0.
      dtype: of q, k and v.
      window: tokens that are seen, the own among them; 0 is the whole segment.
      interpret: run Pallas kernels step by step, on any platform (for tests).
      scores: how they are scaled and capped (`ModelConfig.scores`).
      begins_BT: see `Batch.begins_BT`; "xla" alone takes it, without a window.

    Raises:
      ValueError: rows or scores that the kernel cannot take; says what to change.
    """
    if kind == "auto":
        kind = choose(meshes.platform(), dtype, scores)
    if begins_BT is not None and (kind != "xla" or window):
        raise ValueError(
            f"rows whose documents share their beginning need config.compute.attention="
            f"'xla' and a model without sliding windows; got {kind} and {window}."
        )
    if kind == "splash":
        return _splash(segment_ids_BT, window, interpret, scores)
    if kind == "cudnn":
        return _cudnn(segment_ids_BT, window, dtype, scores)
    return _xla(segment_ids_BT, window, scores, begins_BT)


def shares_beginnings(
    kind: Kind, config: ModelConfig, dtype: str, context: int
) -> bool:
    """Whether rows may have a beginning that their documents share.

    Args:
      kind, dtype: of `Compute`.
      config: the model.
      context: tokens of a row.
    """
    if kind == "auto":
        kind = choose(meshes.platform(), dtype, config.scores)
    dynamic = isinstance(config.rope_scaling, rope.DynamicScaling)
    windows = any(attn.effective_windows(config, context))
    return kind == "xla" and not dynamic and not windows


def _xla(
    segment_ids_BT: jax.Array,
    window: int,
    scores: Scores,
    begins_BT: jax.Array | None = None,
) -> Attend:
    bias = attn.segment_bias(segment_ids_BT, window, begins_BT)
    tokens = segment_ids_BT.shape[1]
    # Queries in blocks, each of which reads the keys up to its end: 5/8 of the products
    # with four blocks. More of them, or shorter ones, gain no more. Keys that the
    # window hides from the whole block are not read either.
    size = tokens // PARTS if tokens % PARTS == 0 else tokens
    size = size if size >= SHORTEST else tokens

    def attend(q_BTNH, k_BTKH, v_BTKH):
        blocks = []
        for start in range(0, tokens, size):
            queries = slice(start, start + size)
            keys = slice(max(0, start - window + 1) if window else 0, start + size)
            own = (q_BTNH[:, queries], k_BTKH[:, keys], v_BTKH[:, keys])
            blocks.append(attn.attend(*own, bias[:, :, queries, keys], scores))
        return checkpoint_name(jnp.concatenate(blocks, axis=1), CONTEXT)

    return attend


def block_size(tokens: int, width: int = LANES) -> int:
    """Tokens of a block of splash's grid, for heads of a width.

    Raises:
      ValueError: no block divides the row.
    """
    for size in BLOCKS:
        if tokens % size == 0 and size * width <= BLOCK_VALUES:
            return size
    raise ValueError(
        f"config.data.context={tokens}: the rows of the TPU kernel must be a multiple of "
        f"{LANES} tokens; use {-(-tokens // LANES) * LANES}, or "
        "config.compute.attention='xla'."
    )


def _splash(
    segment_ids_BT: jax.Array, window: int, interpret: bool, scores: Scores
) -> Attend:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    tokens = segment_ids_BT.shape[1]
    block_size(tokens)  # of rows that no block divides it says so before anything runs

    def of_rows(q_BNTH, k_BKTH, v_BKTH, segments_BT) -> Any:
        heads, width = q_BNTH.shape[1], q_BNTH.shape[-1]
        block = block_size(tokens, width)
        sizes = splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            use_fused_bwd_kernel=True,
        )
        seen = splash.CausalMask((tokens, tokens))
        if window:
            seen = splash.LocalMask((tokens, tokens), (window - 1, 0), offset=0)
        mask = splash.MultiHeadMask([seen] * heads)
        kernel = splash.make_splash_mha(
            mask,
            head_shards=1,
            q_seq_shards=1,
            block_sizes=sizes,
            residual_checkpoint_name=CONTEXT,
            attn_logits_soft_cap=scores.softcap,
            interpret=interpret,
        )
        return jax.vmap(
            lambda q, k, v, s: kernel(q, k, v, segment_ids=splash.SegmentIds(s, s))
        )(q_BNTH, k_BKTH, v_BKTH, segments_BT)

    def attend(q_BTNH, k_BTKH, v_BTKH):
        width = q_BTNH.shape[-1]
        scale = jnp.asarray(attn.scale_of(scores, width), q_BTNH.dtype)
        # Kernel blocks are 128 lanes wide: narrower heads are filled with zeros, which
        # changes no score and adds columns that are cut off again.
        fill = [(0, 0)] * 3 + [(0, -width % LANES)]
        q, k, v = (
            jnp.pad(x, fill).swapaxes(1, 2) for x in (q_BTNH * scale, k_BTKH, v_BTKH)
        )
        run = of_rows
        if meshes.current() is not None:
            heads = P(meshes.ROWS, "tp", None, None)
            run = jax.shard_map(
                of_rows,
                in_specs=(heads, heads, heads, P(meshes.ROWS, None)),
                out_specs=heads,
                check_vma=False,
            )
        return run(q, k, v, segment_ids_BT).swapaxes(1, 2)[..., :width]

    return attend


def _cudnn(
    segment_ids_BT: jax.Array, window: int, dtype: str, scores: Scores
) -> Attend:
    if dtype != "bfloat16":
        raise ValueError(
            f"config.compute.attention='cudnn' with config.compute.dtype={dtype!r}: cuDNN's "
            "kernel takes bfloat16; use config.compute.dtype=bfloat16 or "
            "config.compute.attention='xla'."
        )
    if scores.softcap is not None:
        raise ValueError(
            f"config.compute.attention='cudnn' for a model that caps attention's scores "
            f"at {scores.softcap:g}: cuDNN's kernel caps none; use "
            "config.compute.attention='xla' or 'auto', which chooses it."
        )
    mask = attn.segment_bias(segment_ids_BT, window) == 0
    # The kernel leaves out blocks that lie after the queries where it is told that they
    # are hidden: rows of 2048 tokens take two thirds of the time, short ones no less.
    skips = segment_ids_BT.shape[1] > SKIPPED

    def attend(q_BTNH, k_BTKH, v_BTKH):
        # What is kept of it for the backward pass, `compute` says.
        return jax.nn.dot_product_attention(
            *(q_BTNH, k_BTKH, v_BTKH),
            mask=mask,
            is_causal=skips,
            scale=scores.scale,
            implementation="cudnn",
        )

    return attend
