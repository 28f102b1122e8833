# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every architecture, and generation without a cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.models import decoder, output_head
from jax_surgery.models.architectures import ARCHITECTURES
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import BIASES

BASE = ModelConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,  # not hidden_size / num_heads
    max_positions=64,
    bos_token_id=0,
    eos_token_id=1,
    initializer_range=0.4,
)
# Windows of the layers, shorter than the rows of these tests, that a member can have.
WINDOWS = {
    "mistral": [(5, 5, 5), (5, 0, 5)],
    "qwen2": [(), (0, 5, 5)],
    "qwen3": [(), (0, 5, 5)],
}


def configs(name: str) -> list[ModelConfig]:
    """Tiny models of an architecture; the first is untied, the others tied, and have
    all biases that it can have."""
    own = ARCHITECTURES[name]
    every = {*own.biased, *(n for names in own.biases.values() for n in names)}
    biases = tuple(matrix for matrix in BIASES if matrix in every)
    return [
        dataclasses.replace(
            BASE,
            architecture=name,
            windows=windows,
            tie_embeddings=number > 0,
            biases=biases if number else own.biased,
        )
        for number, windows in enumerate(WINDOWS.get(name, [(), ()]))
    ]


def params_of(config: ModelConfig, seed: int = 0):
    """Random parameters; those that begin as ones (norms) are random too."""
    params = decoder.init_params(config, seed)
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params))))
    return jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), params
    )


forward = jax.jit(decoder.forward, static_argnums=1)


def uncached(params, config, prompt, count):
    """The most likely tokens; reruns the whole text for every new one."""
    width = len(prompt) + count
    tokens = np.zeros((1, width), np.int32)
    tokens[0, : len(prompt)] = prompt
    for end in range(len(prompt), width):
        segments = (np.arange(width) < end)[None].astype(np.int32)
        hidden = forward(params, config, tokens, segments)
        logits = hidden[0, end - 1] @ output_head.kernel(params)
        tokens[0, end] = int(jnp.argmax(logits))
    return tokens[0, len(prompt) :].tolist()
