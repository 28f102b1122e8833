# SPDX-License-Identifier: Apache-2.0
"""A decoder of any architecture in Flax NNX with a functional core.

Modules describe the parameters; `forward_packed` is a pure function of a plain nested
dict of arrays. Layers are stacked on a leading axis and scanned, so that compile time
does not grow with depth. Letters of shapes are those of `models.layout`, and B rows,
T tokens.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_surgery.data.batch import Batch
from jax_surgery.models import architectures, attention_kernels, rope
from jax_surgery.models import attention as attn
from jax_surgery.models.blocks import Block, Kernel, RMSNorm
from jax_surgery.models.compute import DEFAULT_COMPUTE, REMAT, Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import HEAD
from jax_surgery.models.trainable import BLOCK_OF
from jax_surgery.parallel import mesh as meshes

Params = dict[str, Any]
MOMENT = "output_moment"
BESIDE = ("lora_a", "lora_b", MOMENT)  # leaves that a matrix may have (see `Kernel`)


class Embedder(nnx.Module):
    """The token embedding, [V, D]."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        shape = (c.vocab_size, c.hidden_size)
        table = jax.random.normal(rngs.params(), shape)
        self.embedding = nnx.Param(c.initializer_range * table)


def _final_norm(c: ModelConfig) -> RMSNorm:
    return architectures.of(c).block.norm_class(c.hidden_size, c.rms_norm_eps)


class Decoder(nnx.Module):
    """All parameters of a model; run through `forward_packed`."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.embedder = Embedder(c, rngs=rngs)

        @nnx.split_rngs(splits=c.num_layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
        def make_layers(rngs):
            return architectures.of(c).block(c, rngs=rngs)

        self.layers = make_layers(rngs)
        self.final_norm = _final_norm(c)
        if not c.tie_embeddings:
            self.head = Kernel(HEAD, c, c.initializer_range, rngs=rngs)


@functools.cache
def _block_graph(config: ModelConfig, beside: tuple[tuple[str, str], ...]):
    """The structure of one (unstacked) block.

    Args:
      beside: (matrix, leaf) of what lies beside kernels: factors of low-rank deltas, or
        a moment of outputs (see `Kernel`).
    """

    def make():
        block = architectures.of(config).block(config, rngs=nnx.Rngs(0))
        for name, leaf in beside:
            kernel = getattr(getattr(block, BLOCK_OF[name]), name)
            setattr(kernel, leaf, nnx.Param(jnp.zeros(())))
        return block

    return nnx.split(nnx.eval_shape(make), nnx.Param)[0]


def block_of(config: ModelConfig, layer: Params) -> Block:
    """The NNX module of one layer, holding that layer's slice of the parameters."""
    beside = (
        (name, leaf)
        for name, block in BLOCK_OF.items()
        for leaf in BESIDE
        if leaf in layer[block][name]
    )
    return nnx.merge(_block_graph(config, tuple(beside)), nnx.State(layer))


@functools.partial(jax.jit, static_argnums=(0, 1))
def init_params(config: ModelConfig, seed: int = 0) -> Params:
    """Random float32 parameters: normal, residual outputs scaled by 1/sqrt(2 L)."""
    state = nnx.split(Decoder(config, rngs=nnx.Rngs(seed)), nnx.Param)[1]
    return nnx.to_pure_dict(state)


@functools.cache
def _shapes(config: ModelConfig) -> Params:
    return jax.eval_shape(functools.partial(init_params, config))


def abstract_params(config: ModelConfig, dtype=jnp.float32) -> Params:
    """The parameters' shapes, as `ShapeDtypeStruct`s; takes no memory."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), _shapes(config))


def parameter_count(config: ModelConfig) -> int:
    """Number of parameters (a tied embedding counts once)."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(abstract_params(config)))


def embed(
    params: Params,
    config: ModelConfig,
    tokens_BT,
    compute: Compute,
    noise_BTD: jax.Array | None = None,
) -> jax.Array:
    """Token embeddings [B, T, D] in the compute dtype.

    On a mesh every device looks all tokens up in its columns of the table, and rows
    are exchanged for columns: that moves less than the table would, and the table's
    gradient needs no exchange.

    Args:
      noise_BTD: added to the rows of the table, before they are scaled where the
        architecture scales them; None adds nothing.
    """
    tokens_BT = meshes.constrain(tokens_BT, "data")
    columns = params["embedder"]["embedding"][tokens_BT].astype(compute.dtype)
    if noise_BTD is not None:
        columns += meshes.constrain(noise_BTD, "data", None, "fsdp").astype(
            compute.dtype
        )
    if architectures.of(config).scaled_embedding:
        columns *= jnp.asarray(math.sqrt(config.hidden_size), compute.dtype)
    columns = meshes.constrain(columns, "data", None, "fsdp")
    return meshes.constrain(columns, meshes.ROWS)


def in_compute_dtype(layers: Params, compute: Compute) -> Params:
    """The stacked layers with their matrices in the compute dtype."""

    def cast(path, leaf):
        sums = path[-1].key == MOMENT
        return leaf.astype(compute.dtype) if leaf.ndim > 2 and not sums else leaf

    return jax.tree_util.tree_map_with_path(cast, layers)


def final_norm(params: Params, x, config: ModelConfig) -> jax.Array:
    """The norm before the output head."""
    norm = _final_norm(config)
    norm.scale = nnx.Param(params["final_norm"]["scale"])
    return norm(x)


def forward_with_moments(
    params: Params,
    config: ModelConfig,
    batch: Batch,
    *,
    compute: Compute = DEFAULT_COMPUTE,
    first_trained_layer: int = 0,
    num_layers: int | None = None,
    moments_weight_BT: jax.Array | None = None,
    noise_BTD: jax.Array | None = None,
    inside: bool = False,
) -> tuple[jax.Array, Any]:
    """Final normed hidden states, and second moments of the matrices' inputs.

    Args:
      params: see `abstract_params`; with factors beside matrices, see `Kernel`.
      config: the architecture.
      batch: packed rows, whose text alone is read. No token sees another segment.
      compute: dtype and memory choices.
      first_trained_layer: no gradient reaches the layers before it, which saves their
        backward pass, and where the batch has `lower_BTD`, which is what they give,
        their forward pass too; moments are of the layers from this one on.
      num_layers: run this many layers alone, and give the last one's output without
        the final norm; None runs all.
      moments_weight_BT: weight w_t of each token in the moments; None: none are summed.
      noise_BTD: added to the tokens' embeddings (see `embed`); None adds nothing.
      inside: whether the states inside the moving layers come back in the place of
        moments (see `forward_with_inside`).

    Returns:
      hidden [B, T, D] in the compute dtype; and sums over tokens of w_t x_t x_t^T per
      layer, float32: `attention_in` [L, D, D], `attention_out` [L, N * H, N * H],
      `mlp_in` [L, D, D], `mlp_hidden` [L, F, F].
    """
    tokens_BT, segment_ids_BT = batch.tokens_BT, batch.segment_ids_BT
    lengths_BT = None
    if isinstance(config.rope_scaling, rope.DynamicScaling):
        lengths_BT = rope.document_lengths(segment_ids_BT, batch.positions_BT)
    rope_of, rope_L = attn.by_rope(config, batch.positions_BT, lengths_BT)
    windows = attn.effective_windows(config, tokens_BT.shape[1])[:num_layers]

    gates_LBP = batch.gates_BLP
    if gates_LBP is not None:
        gates_LBP = jnp.moveaxis(gates_LBP, 1, 0)

    def attention(window):
        kind, dtype = compute.attention, compute.dtype
        return attention_kernels.self_attention(
            kind,
            segment_ids_BT,
            dtype,
            window,
            scores=config.scores,
            begins_BT=batch.begins_BT,
        )

    def layer(x, inputs, attend_of, weight_BT):
        layer_params, (which_window, which_rope, gates_BP) = inputs
        block, (cos, sin) = block_of(config, layer_params), rope_of(which_rope)
        x, between, moments = block(
            x, attend_of(which_window), cos, sin, weight_BT, gates_BP
        )
        x = meshes.constrain(x, meshes.ROWS)
        return x, (between, x) if inside else moments

    def run(x, layers, first, count, weight_BT, whole):
        """`count` of the stacked `layers` one after another, from `first` on.

        Args:
          whole: whether a step takes its layer out of the stack of all, which nothing
            copies; the gradient of that would be a stack of all in every step.
        """
        span = slice(first, first + count)
        attend_of, window_L = attn.by_window(windows[span], attention)
        of_span = lambda leaf_L: None if leaf_L is None else leaf_L[span]
        which_L = window_L, of_span(rope_L), of_span(gates_LBP)
        body = functools.partial(layer, attend_of=attend_of, weight_BT=weight_BT)
        inputs = layers, which_L
        if whole:
            of_stack, inputs = body, (jnp.arange(count), which_L)
            take = functools.partial(
                jax.lax.dynamic_index_in_dim, axis=0, keepdims=False
            )

            def body(x, inputs):
                index, which = inputs
                own = jax.tree.map(lambda leaf: take(leaf, first + index), layers)
                return of_stack(x, (own, which))

        stacks = jax.tree.leaves(layers)
        size = sum(x.size // len(x) * x.dtype.itemsize for x in stacks)
        unroll = min(count, compute.layers_per_step(meshes.platform(), size))
        if compute.remat != "none":
            # Within a loop nothing can be merged with the first computation.
            body = jax.checkpoint(
                body, policy=REMAT[compute.remat], prevent_cse=unroll > 1
            )
        return jax.lax.scan(body, x, inputs, unroll=unroll)

    # Converted here, not where they are used: gradients leave the layers in the compute
    # dtype, half as large in bfloat16.
    layers = in_compute_dtype(
        jax.tree.map(lambda leaf: leaf[:num_layers], params["layers"]), compute
    )
    first, count = first_trained_layer, len(jax.tree.leaves(layers)[0])
    if first and batch.lower_BTD is not None:
        assert noise_BTD is None, "the embeddings are not read"
        hidden = meshes.constrain(batch.lower_BTD.astype(compute.dtype), meshes.ROWS)
    else:
        hidden = embed(params, config, tokens_BT, compute, noise_BTD)
        if first:
            frozen = jax.lax.stop_gradient(layers)
            hidden, _ = run(hidden, frozen, 0, first, None, whole=True)
    if first:
        hidden = jax.lax.stop_gradient(hidden)
        layers = jax.tree.map(lambda leaf: leaf[first:], layers)
    hidden, moments = run(
        hidden, layers, first, count - first, moments_weight_BT, whole=False
    )
    if num_layers is None:
        hidden = final_norm(params, hidden, config)
    return hidden, moments


def forward_with_inside(
    params: Params, config: ModelConfig, batch: Batch, **options: Any
) -> tuple[jax.Array, list[jax.Array]]:
    """The hidden states of `forward_with_moments`, and those inside.

    Returns:
      final states [B, T, D]; and, under the same final norm, the states after the
      attention and after the MLP of each layer from the first that moves on, each
      [B, T, D], but for the last MLP's, which are the final ones. The logit lens
      (nostalgebraist 2020) reads these with the output head.
    """
    hidden, (between, after) = forward_with_moments(
        params, config, batch, inside=True, **options
    )
    pairs = zip(between, after, strict=True)
    states = [state for pair in pairs for state in pair][:-1]
    return hidden, [final_norm(params, state, config) for state in states]


def forward_packed(
    params: Params, config: ModelConfig, batch: Batch, **options: Any
) -> jax.Array:
    """The hidden states alone of `forward_with_moments`."""
    return forward_with_moments(params, config, batch, **options)[0]


@functools.partial(jax.jit, static_argnames=("config", "compute", "first"))
def with_lower(
    params: Params, config: ModelConfig, batch: Batch, *, compute: Compute, first: int
) -> Batch:
    """The batch with what the layers below the `first` that moves make of it, which
    passes that begin there need not compute again."""
    if not first:
        return batch
    states = forward_packed(params, config, batch, compute=compute, num_layers=first)
    return batch.replace(lower_BTD=states)


def forward(
    params: Params,
    config: ModelConfig,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array | None = None,
    positions_BT: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """`forward_packed` of arrays.

    Args:
      params, config, options: see `forward_with_moments`.
      tokens_BT: int32 token ids.
      segment_ids_BT: packed documents 1, 2, ..., padding 0; None is one document a row.
      positions_BT: of each token in its document; None counts along the row.
    """
    if segment_ids_BT is None:
        segment_ids_BT = jnp.ones_like(tokens_BT)
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    batch = Batch(tokens_BT, segment_ids_BT, positions_BT)
    return forward_packed(params, config, batch, **options)
