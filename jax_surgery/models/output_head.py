# SPDX-License-Identifier: Apache-2.0
"""The output head [D, V], which may be the transposed embedding, as losses use it.

D model width, V vocabulary, S devices that rows are split over.
"""

from typing import Any

import jax

from jax_surgery.models.compute import Compute
from jax_surgery.models.layout import EMBEDDING, HEAD
from jax_surgery.parallel import partition

Params = dict[str, Any]


def kernel(params: Params) -> jax.Array:
    """The output head [D, V]; the transposed embedding where they are tied."""
    if "head" in params:
        return params["head"]["kernel"]
    return params["embedder"]["embedding"].T


def gathered(params: Params, compute: Compute) -> jax.Array:
    """The output head as products use it, gathered, [D, V] in the compute dtype."""
    weight, spec, tied = _head(params)
    head = partition.gather(weight, spec, compute.dtype)
    return head.T if tied else head


def copies(params: Params, compute: Compute) -> jax.Array:
    """A copy of the output head for each device that rows are split over, [S, D, V].

    What `logprobs` takes; see `partition.copies`.
    """
    return _copies(*_head(params), compute)


def _copies(weight: jax.Array, spec: tuple, tied: bool, compute: Compute) -> jax.Array:
    head_SDV = partition.copies(weight, spec, compute.dtype)
    return head_SDV.swapaxes(1, 2) if tied else head_SDV


def copies_for(
    params: Params, hidden_BTD: jax.Array, compute: Compute
) -> tuple[jax.Array, jax.Array]:
    """`copies`, and the hidden states that they are to be used with.

    In the backward pass the head's gradient is summed over devices before any layer's
    is computed. By default the compiler does it last, and holds each device's own
    sum of the whole head until then: 9.73 GiB per chip instead of 9.28, by
    configs/plan.py (llama2_7b on v5e:4x4).
    """
    weight, spec, tied = _head(params)
    weight, hidden_BTD = _first_of_gradients(weight, hidden_BTD)
    return _copies(weight, spec, tied, compute), hidden_BTD


@jax.custom_vjp
def _first_of_gradients(weight: jax.Array, hidden: jax.Array):
    """Returns both unchanged; the gradient of the second waits for that of the first."""
    return weight, hidden


def _first_forward(weight, hidden):
    # The structure of the residuals says whether the weight moves.
    return (weight.value, hidden.value), () if weight.perturbed else None


def _first_backward(moves, cotangents):
    if moves is None:
        return None, cotangents[1]
    return jax.lax.optimization_barrier(cotangents)


_first_of_gradients.defvjp(_first_forward, _first_backward, symbolic_zeros=True)


def _head(params: Params) -> tuple[jax.Array, tuple, bool]:
    """Its weight, where that lies on the mesh, and whether it is the embedding's."""
    if "head" in params:
        return params["head"]["kernel"], tuple(HEAD.spec), False
    return params["embedder"]["embedding"], tuple(EMBEDDING.spec), True


def parameters(params: Params) -> Params:
    """The part of the parameters that the output head is made of."""
    name = "head" if "head" in params else "embedder"
    return {name: params[name]}
