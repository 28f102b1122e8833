# SPDX-License-Identifier: Apache-2.0
"""Draws tokens from a model's distribution: temperature and nucleus.

The nucleus of mass p is the smallest set of likeliest tokens that have at least p
together (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020). Its
border is found by bisection of the probability, since sorting a vocabulary for each
token takes longer on CPUs than a small model takes to run.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jax_surgery.config import check_seed, positive

BISECTIONS = 30  # of the border of a nucleus, which is then exact to 1e-9 of its range


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


def nucleus(logits_BV: jax.Array, top_p: float) -> jax.Array:
    """The logits [B, V], float32, with -inf at tokens outside the nucleus of mass `top_p`.

    Tokens that are as likely as the last one that belongs to it belong to it too.
    """
    logp_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32))
    p_BV = jnp.exp(logp_BV)

    def halve(_, borders):
        # The tokens above `low` have the mass, those above `high` do not.
        low_B1, high_B1 = borders
        middle_B1 = (low_B1 + high_B1) / 2
        mass_B1 = jnp.where(p_BV >= middle_B1, p_BV, 0.0).sum(-1, keepdims=True)
        enough_B1 = mass_B1 >= top_p
        return (
            jnp.where(enough_B1, middle_B1, low_B1),
            jnp.where(enough_B1, high_B1, middle_B1),
        )

    highest_B1 = p_BV.max(-1, keepdims=True)
    borders = jnp.zeros_like(highest_B1), highest_B1 * (1 + 1e-6)
    low_B1, _ = jax.lax.fori_loop(0, BISECTIONS, halve, borders)
    return jnp.where(p_BV >= jnp.minimum(low_B1, highest_B1), logp_BV, -jnp.inf)


def draw(
    keys_B: jax.Array, logits_BV: jax.Array, temperature: float, top_p: float
) -> jax.Array:
    """A token of each row, int32 [B].

    Args:
      keys_B: a random key of each row.
    """
    logits_BV = logits_BV.astype(jnp.float32) / temperature
    if top_p < 1:
        logits_BV = nucleus(logits_BV, top_p)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)
