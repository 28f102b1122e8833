# SPDX-License-Identifier: Apache-2.0
"""What the gradient that `token_sums` forms by hand is worth against `jax.checkpoint`.

    python results/token_sums.py

Alternates both in one process; prints seconds, temporary memory and the largest
difference. A cross-entropy and a KL over 1,024 tokens of which 60 % are active, model
width 1,024, vocabulary 32,000, float32.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from configs import paper_formula
from jax_surgery.methods import loss as losses
from jax_surgery.models import logprobs, token_sums
from jax_surgery.models.output_head import Head
from jax_surgery.runs import settings

ROWS, TOKENS, WIDTH, VOCAB, ROUNDS = 4, 256, 1024, 32000, 5


def checkpointed(terms, sizes, head, parts):
    """`token_sums._sums` as plain code: chunks under `jax.checkpoint`."""
    found = []
    for term, size, (heads, hidden, others, _) in zip(terms, sizes, parts, strict=True):
        run = jax.checkpoint(
            lambda heads, chunk, term=term: term(heads, *chunk), prevent_cse=False
        )

        def add(sums, chunk, run=run, heads=(head, *heads)):
            return jax.tree.map(jnp.add, sums, run(list(heads), chunk)), None

        arrays = [hidden, *others]
        chunks = [a.reshape(-1, size, *a.shape[1:]) for a in arrays]
        names = jax.eval_shape(term, [head, *heads], *(c[0] for c in chunks))
        zeros = {name: jnp.zeros(()) for name in names}
        found.append(jax.lax.scan(add, zeros, chunks)[0])
    total = {name: value for sums in found for name, value in sums.items()}
    return total | {token_sums.LOSS: sum(sums[token_sums.LOSS] for sums in found)}


def main() -> None:
    rng = np.random.default_rng(0)
    objective = settings.from_config(paper_formula.get_config()).objective

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    head, frozen_head = (Head(0.03 * normal(1, WIDTH, VOCAB)) for _ in range(2))
    hidden, frozen = (normal(ROWS, TOKENS, WIDTH) for _ in range(2))
    targets = jnp.asarray(rng.integers(0, VOCAB, (ROWS, TOKENS)))
    weights = jnp.asarray(rng.random((ROWS, TOKENS)) < 0.6, jnp.float32)

    def learned(heads, hidden_CD, targets_C, weights_C):
        (head_DV,) = heads
        found = logprobs.of_targets(head_DV, hidden_CD, targets_C)
        return {token_sums.LOSS: -(weights_C * found.logp_BT).sum()}

    def retained(*chunk):
        return losses.retain_terms(objective, *chunk)

    def loss(hidden, head):
        active = weights != 0
        parts = [
            token_sums.Part(learned, hidden, [targets, weights], active),
            token_sums.Part(retained, hidden, [frozen, weights], active, [frozen_head]),
        ]
        return token_sums.token_sums(parts, head)[token_sums.LOSS]

    programs = {}
    for name, sums in (("by hand", token_sums._sums), ("checkpoint", checkpointed)):
        token_sums._sums = sums  # pyrefly: ignore[bad-assignment]
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        programs[name] = step.lower(hidden, head).compile()
    one, other = (
        jax.tree.leaves(program(hidden, head)) for program in programs.values()
    )
    apart = [float(abs(a - b).max() / abs(a).max()) for a, b in zip(one, other)]
    print(f"largest relative difference: {max(apart):.1e}")
    seconds = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(hidden, head))
            seconds[name].append(time.perf_counter() - began)
    for name, program in programs.items():
        sizes = program.memory_analysis()
        assert sizes, "XLA's CPU compiler states the sizes"
        memory = sizes.temp_size_in_bytes / 2**20
        print(f"{name}: {min(seconds[name]):.2f} s, {memory:.0f} MiB")


if __name__ == "__main__":
    main()
