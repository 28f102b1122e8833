# SPDX-License-Identifier: Apache-2.0
"""The output head [D, V], which may be the transposed embedding, as losses use it.

D model width, V vocabulary, S devices that rows are split over.
"""

from typing import Any

import jax

from jax_surgery.models.compute import Compute
from jax_surgery.models.layout import EMBEDDING, HEAD, Row
from jax_surgery.parallel import partition

Params = dict[str, Any]


def _weight(params: Params) -> tuple[jax.Array, Row]:
    """The weight that the head is made of, and its row: the embedding where they are
    tied."""
    row = HEAD if "head" in params else EMBEDDING
    module, leaf = row.path
    return params[module][leaf], row


def parameters(params: Params) -> Params:
    """The part of the parameters that the output head is made of."""
    module = _weight(params)[1].path[0]
    return {module: params[module]}


def kernel(params: Params, dtype: str = "") -> jax.Array:
    """The output head [D, V] in a dtype ("": its own), gathered where it is used."""
    weight, row = _weight(params)
    head = partition.gather(weight, tuple(row.spec), dtype or str(weight.dtype))
    return head if row is HEAD else head.T


def copies(params: Params, compute: Compute) -> jax.Array:
    """A copy of the output head for each device that rows are split over, [S, D, V].

    What `logprobs` takes; see `partition.copies`.
    """
    weight, row = _weight(params)
    copies = partition.copies(weight, tuple(row.spec), compute.dtype)
    return copies if row is HEAD else copies.swapaxes(1, 2)


def copies_for(
    params: Params, hidden_BTD: jax.Array, compute: Compute, moves: bool
) -> tuple[jax.Array, jax.Array]:
    """`copies`, and the hidden states that they are to be used with.

    In the backward pass the head's gradient is summed over devices before any layer's
    is computed. By default the compiler does it last, and holds each device's own
    sum of the whole head until then: 9.73 GiB per chip instead of 9.27, by
    configs/plan.py (llama2_7b on v5e:4x4).

    Args:
      moves: whether the head has a gradient; the barrier would make one of zeros.
    """
    own = parameters(params)
    if moves:
        own, hidden_BTD = jax.lax.optimization_barrier((own, hidden_BTD))
    return copies(own, compute), hidden_BTD
