# SPDX-License-Identifier: Apache-2.0
"""Draws tokens from a model's distribution: temperature and nucleus.

The nucleus of mass p is the smallest set of likeliest tokens that have at least p
together (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020). To sort
a vocabulary for each token takes longer on CPUs than to run a small model, so tokens are
drawn from all, and again where one is outside the nucleus: what is kept is distributed
over the nucleus as the model's distribution is.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_surgery.config import check_seed, positive

BLOCK = 256  # tokens whose probabilities are added up before one of them is found
# Draws of a token, at most, after which it is the likeliest one. Of a nucleus that holds
# as little as a tenth, one in 40,000 rows comes there.
DRAWS = 100


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
      temperature: divides the logits.
      top_p: mass of the nucleus that is drawn from; 1 draws from all tokens.
      seed: of the draws.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        positive(self.temperature, "temperature")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}; use more than 0, and 1 at most.")
        check_seed(self.seed, "seed")


def row_keys(seed: jax.Array, numbers_B: jax.Array) -> jax.Array:
    """A random key of each row, by its number alone: draws depend on no batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers_B)


def in_nucleus(p_BV: jax.Array, token_B: jax.Array, top_p: float) -> jax.Array:
    """Whether each row's token is in the nucleus of mass `top_p`, bool [B].

    Tokens that are as likely as the last one that belongs to it belong to it too.

    Args:
      p_BV: probabilities, float32.
    """
    own_B1 = jnp.take_along_axis(p_BV, token_B[:, None], axis=1)
    above_B = jnp.where(p_BV > own_B1, p_BV, 0.0).sum(1)
    return (above_B < top_p) & (own_B1[:, 0] > 0)


def draw(
    keys_B: jax.Array, logits_BV: jax.Array, temperature: float, top_p: float
) -> jax.Array:
    """A token of each row, int32 [B].

    Args:
      keys_B: a random key of each row.
    """
    rows, words = logits_BV.shape
    p_BV = jax.nn.softmax(logits_BV.astype(jnp.float32) / temperature)
    p_BNC = jnp.pad(p_BV, ((0, 0), (0, -words % BLOCK))).reshape(rows, -1, BLOCK)
    below_BN = jnp.cumsum(p_BNC.sum(-1), axis=1)

    def one(number):
        each = jax.vmap(jax.random.fold_in, (0, None))(keys_B, number)
        at_B1 = jax.vmap(jax.random.uniform)(each)[:, None] * below_BN[:, -1:]
        block_B1 = (below_BN <= at_B1).sum(1, keepdims=True)
        block_B1 = jnp.minimum(block_B1, below_BN.shape[1] - 1)
        before_B1 = jnp.take_along_axis(below_BN, jnp.maximum(block_B1 - 1, 0), 1)
        before_B1 = jnp.where(block_B1 > 0, before_B1, 0.0)
        inside_BC = jnp.take_along_axis(p_BNC, block_B1[..., None], axis=1)[:, 0]
        place_B = (before_B1 + jnp.cumsum(inside_BC, axis=1) <= at_B1).sum(1)
        token_B = block_B1[:, 0] * BLOCK + jnp.minimum(place_B, BLOCK - 1)
        return jnp.minimum(token_B, words - 1).astype(jnp.int32)

    def again(carry):
        number, token_B, kept_B = carry
        new_B = one(number)
        good_B = in_nucleus(p_BV, new_B, top_p) & ~kept_B
        return number + 1, jnp.where(good_B, new_B, token_B), kept_B | good_B

    def going_on(carry):
        number, _, kept_B = carry
        return (number < DRAWS) & ~kept_B.all()

    likeliest_B = jnp.argmax(p_BV, axis=1).astype(jnp.int32)
    start = jnp.zeros((), jnp.int32), likeliest_B, jnp.zeros(rows, bool)
    return jax.lax.while_loop(going_on, again, start)[1]
