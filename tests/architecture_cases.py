# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every architecture; logits and generation without a cache."""

import dataclasses

import jax
import numpy as np

from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.architectures import ARCHITECTURES
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import BIASES
from jax_surgery.models.rope import LinearScaling

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
# What the first and the second tiny model of a member have, beside what all have.
# Windows are shorter than the rows of these tests; caps change every score and logit.
CAPPED = {
    "query_pre_attn_scalar": 5.0,
    "attention_softcap": 0.7,
    "final_softcap": 3.0,
}
SCALED = {
    "query_pre_attn_scalar": 5.0,
    "final_softcap": 3.0,
    "local_rope_theta": 50.0,
    "rope_theta": 500.0,
    "rope_scaling": LinearScaling(4.0),
}
OWN: dict[str, list[dict]] = {
    "mistral": [{"windows": (5, 5, 5)}, {"windows": (5, 0, 5)}],
    "qwen2": [{}, {"windows": (0, 5, 5)}],
    "qwen3": [{}, {"windows": (0, 5, 5)}],
    "gemma2": [{}, CAPPED | {"windows": (5, 0, 5)}],
    "gemma3_text": [{"local_rope_theta": 1e4}, SCALED | {"windows": (5, 5, 0)}],
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
            tie_embeddings=number > 0,
            biases=biases if number else own.biased,
            **fields,
        )
        for number, fields in enumerate(OWN.get(name, [{}, {}]))
    ]


def params_of(config: ModelConfig, seed: int = 0):
    """Random parameters; those that begin as ones or zeros (norms) are random too."""
    params = decoder.init_params(config, seed)
    keys = iter(jax.random.split(jax.random.key(seed), len(jax.tree.leaves(params))))
    params = jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), params
    )
    if ARCHITECTURES[config.architecture].scaled_embedding:
        # Large ones of a tied head would have each token answered by itself.
        params["embedder"]["embedding"] *= 0.3
    return params


forward = jax.jit(decoder.forward, static_argnums=1)


def logits_alone(params, config, ids) -> np.ndarray:
    """Logits after each token of a text, float64 [n, V]; alone in a row.

    The row is padded behind, where nothing looks: texts share a program.
    """
    row = np.zeros((1, -(-len(ids) // 32) * 32), np.int32)
    row[0, : len(ids)] = ids
    hidden_TD = np.asarray(forward(params, config, row))[0, : len(ids)]
    logits_TV = logprobs.logits(hidden_TD, output_head.of(params, config))
    return np.asarray(logits_TV, np.float64)


def uncached(params, config, prompts, count):
    """The most likely tokens; reruns the whole texts for every new one.

    Each prompt has a row of its own, all as wide as the longest: one program.
    """
    starts = np.array([len(prompt) for prompt in prompts])
    rows, width = np.arange(len(prompts)), starts.max() + count
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    head = output_head.of(params, config)
    for ends in starts + np.arange(count)[:, None]:
        segments = (np.arange(width) < ends[:, None]).astype(np.int32)
        hidden = np.asarray(forward(params, config, tokens, segments))
        logits_BV = logprobs.logits(hidden[rows, ends - 1], head)
        tokens[rows, ends] = np.asarray(logits_BV).argmax(-1)
    return [row[n : n + count].tolist() for row, n in zip(tokens, starts, strict=True)]
