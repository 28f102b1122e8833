# SPDX-License-Identifier: Apache-2.0
"""The output head [D, V], which may be the transposed embedding, as losses use it.

D model width, V vocabulary, S devices that rows are split over.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import EMBEDDING, HEAD, Row
from jax_surgery.parallel import partition

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """An output head, with all that makes logits of hidden states: a pytree.

    Attributes:
      kernel: [D, V], or a copy for each device, [S, D, V]; or where it says so
        transposed.
      softcap: see `ModelConfig.final_softcap`.
    """

    kernel: jax.Array
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})

    def with_kernel(self, change: Callable[[jax.Array], jax.Array]) -> "Head":
        """The head with another kernel, made of its own."""
        return dataclasses.replace(self, kernel=change(self.kernel))


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


def of(params: Params, config: ModelConfig, dtype: str = "") -> Head:
    """The output head as `logprobs.logits` takes it; see `kernel`."""
    return Head(kernel(params, dtype), config.final_softcap)


def copies(params: Params, config: ModelConfig, compute: Compute) -> Head:
    """A copy of the output head for each device that rows are split over, [S, D, V].

    What `logprobs` takes; see `partition.copies`.
    """
    weight, row = _weight(params)
    copies = partition.copies(weight, tuple(row.spec), compute.dtype)
    copies = copies if row is HEAD else copies.swapaxes(1, 2)
    return Head(copies, config.final_softcap)


def copies_for(
    params: Params,
    config: ModelConfig,
    hidden_BTD: jax.Array,
    compute: Compute,
    moves: bool,
) -> tuple[Head, jax.Array]:
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
    return copies(own, config, compute), hidden_BTD
