# SPDX-License-Identifier: Apache-2.0
"""Properties of the model: causality, isolation of packed segments, invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_compute

from jax_surgery.data.batch import Batch
from jax_surgery.models import decoder, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.published import SIZES, sizes

CONFIG = ModelConfig(43, 16, 24, 2, 4, 2, 4, initializer_range=0.3)
# Parameters as published (model cards; transformers' num_parameters); of Gemma 3 from
# 4 billion on those of the published model less its vision tower's and projector's.
PUBLISHED = {
    "llama1_7b": 6_738_415_616,
    "llama1_13b": 13_015_864_320,
    "llama1_30b": 32_528_943_616,
    "llama1_65b": 65_285_660_672,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3.1_8b": 8_030_261_248,
    "llama3.1_70b": 70_553_706_496,
    "llama3.2_1b": 1_235_814_400,
    "llama3.2_3b": 3_212_749_824,
    "llama3.3_70b": 70_553_706_496,
    "mistral_7b_v0.1": 7_241_732_096,
    "mistral_7b_v0.3": 7_248_023_552,
    "qwen3_0.6b": 596_049_920,
    "qwen3_1.7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "smollm_135m": 134_515_008,
    "smollm_360m": 361_821_120,
    "smollm_1.7b": 1_711_376_384,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm2_1.7b": 1_711_376_384,
    "qwen2_0.5b": 494_032_768,
    "qwen2_1.5b": 1_543_714_304,
    "qwen2_7b": 7_615_616_512,
    "qwen2_72b": 72_706_203_648,
    "qwen2.5_0.5b": 494_032_768,
    "qwen2.5_1.5b": 1_543_714_304,
    "qwen2.5_3b": 3_085_938_688,
    "qwen2.5_7b": 7_615_616_512,
    "qwen2.5_14b": 14_770_033_664,
    "qwen2.5_32b": 32_763_876_352,
    "qwen2.5_72b": 72_706_203_648,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": 4_300_079_472 - 416_866_032 - (1152 * 2560 + 1152),
    "gemma3_12b": 12_187_325_040 - 416_866_032 - (1152 * 3840 + 1152),
    "gemma3_27b": 27_432_406_640 - 416_866_032 - (1152 * 5376 + 1152),
}

forward = jax.jit(decoder.forward, static_argnums=1, static_argnames="compute")


@pytest.fixture(scope="module")
def params():
    return decoder.init_params(CONFIG, 0)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (2, 12), 0, 43)


def influence(params, tokens, segments, positions, row, place):
    """Which positions' embeddings have a gradient into hidden[row, place]."""
    ids = jnp.arange(tokens.size).reshape(tokens.shape)
    table = params["embedder"]["embedding"][tokens.reshape(-1)]

    def value(table):
        own = params | {"embedder": {"embedding": table}}
        hidden = decoder.forward(own, CONFIG, ids, segments, positions)
        return jnp.sin(hidden[row, place]).sum()

    gradient = jax.jit(jax.grad(value))(table)
    return np.abs(gradient).max(-1).reshape(tokens.shape) > 0


def test_a_token_sees_its_past_and_nothing_else(params, tokens):
    seen = influence(params, tokens, None, None, 1, 7)
    assert not seen[0].any()
    assert seen[1, :8].all() and not seen[1, 8:].any()


def test_packed_segments_do_not_see_each_other(params, tokens):
    segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 3] * 2)
    positions = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]] * 2)
    seen = influence(params, tokens, segments, positions, 0, 7)
    assert np.flatnonzero(seen[0]).tolist() == [5, 6, 7]
    assert not seen[1].any()


def test_a_packed_document_equals_the_document_alone(params, tokens):
    segments = jnp.array([[1] * 5 + [2] * 4 + [0] * 3] * 2)
    positions = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]] * 2)
    packed = forward(params, CONFIG, tokens, segments, positions)
    alone = forward(params, CONFIG, tokens[:, 5:9])
    np.testing.assert_allclose(packed[:, 5:9], alone, rtol=1e-4, atol=1e-5)
    assert np.isfinite(packed).all()


@pytest.mark.parametrize(
    "compute",
    [plain_compute(remat="full"), plain_compute(unroll=0), plain_compute(unroll=2)],
)
def test_how_it_is_run_changes_no_gradient(params, tokens, compute):
    def loss(params, compute):
        hidden = decoder.forward(params, CONFIG, tokens, compute=compute)
        return (hidden**2).mean() + hidden[..., 0].sum()

    grads = [
        jax.jit(jax.grad(functools.partial(loss, compute=c)))(params)
        for c in (plain_compute(), compute)
    ]
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_compute_is_near_float32(params, tokens):
    full = forward(params, CONFIG, tokens)
    half = forward(params, CONFIG, tokens, compute=plain_compute(dtype="bfloat16"))
    assert half.dtype == jnp.bfloat16
    error = jnp.abs(half.astype(jnp.float32) - full).mean() / jnp.abs(full).mean()
    assert 0 < error < 0.05


def test_moments_are_those_of_the_inputs(params, tokens):
    weights = jnp.zeros(tokens.shape).at[0, 3].set(2.0)
    segments, positions = jnp.ones_like(tokens), jnp.arange(tokens.shape[1])
    batch = Batch(tokens, segments, jnp.broadcast_to(positions, tokens.shape))
    _, moments = decoder.forward_with_moments(
        params, CONFIG, batch, moments_weight_BT=weights
    )
    # The first layer's attention input: the normed embedding of that token.
    x = params["embedder"]["embedding"][tokens[0, 3]]
    x = x / jnp.sqrt((x**2).mean() + CONFIG.rms_norm_eps)
    np.testing.assert_allclose(
        moments["attention_in"][0], 2 * jnp.outer(x, x), rtol=1e-4, atol=1e-5
    )
    for value in moments.values():
        ranks = jnp.linalg.matrix_rank(value, rtol=1e-4)
        assert ranks.tolist() == [1, 1]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_named_architectures_have_their_published_size(name):
    assert decoder.parameter_count(sizes(name)) == PUBLISHED[name]


def test_every_named_architecture_is_checked():
    assert set(PUBLISHED) == set(SIZES)


def test_an_unknown_architecture_gives_the_nearest():
    with pytest.raises(ValueError, match="llama2_7b"):
        sizes("llama2-7b")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_kv_heads": 3}, "num_heads=4 must be a multiple of num_kv_heads=3"),
        ({"head_dim": 5}, "head_dim=5 must be even"),
    ],
)
def test_impossible_shapes_are_named(fields, message):
    import dataclasses

    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **fields)


def test_the_heads_gradient_is_made_before_that_of_the_hidden_states_is_used():
    """And it is the same as without that order; a head that does not move has no order."""
    config = ModelConfig(24, 16, 24, 1, 2, 2, 8)
    params = decoder.init_params(config, 0)
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 16)), jnp.float32)

    def total(params, hidden, moves=True):
        heads, hidden = output_head.copies_for(
            params, config, hidden, plain_compute(), moves
        )
        return jnp.sin(hidden @ heads.kernel[0]).sum()

    def plain(params, hidden):
        return jnp.sin(hidden @ output_head.kernel(params)).sum()

    found, wanted = (
        jax.grad(f, argnums=(0, 1))(params, hidden) for f in (total, plain)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted
    )
    both = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(params, hidden)
    fixed = functools.partial(total, moves=False)
    frozen = jax.make_jaxpr(jax.grad(fixed, argnums=1))(params, hidden)
    assert str(both).count("optimization_barrier") == 2  # one of them backwards
    assert "optimization_barrier" not in str(frozen)
