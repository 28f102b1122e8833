# SPDX-License-Identifier: Apache-2.0
"""How a forward pass is run: dtype, kernels, and what the backward pass recomputes."""

import dataclasses
from typing import Literal

import jax

from jax_surgery.config import at_least, choice
from jax_surgery.models import attention_kernels
from jax_surgery.models.attention_kernels import CONTEXT

# Name of the matrices' outputs for remat policies. A low-rank delta is part of them:
# kept on its own, it would take as much memory again.
PRODUCT = "product"

# The primitive of cuDNN's attention, whose statistics have no name that can be kept.
CUDNN = "dot_product_attention_fwd_wrapper"


def _save(*names: str):
    """Keeps these names; with `CONTEXT` also what cuDNN's backward pass reads."""
    named = jax.checkpoint_policies.save_only_these_names(*names)

    def policy(primitive, *arguments, **parameters):
        if CONTEXT in names and primitive.name == CUDNN:
            return True
        return named(primitive, *arguments, **parameters)

    return policy


# What the forward pass keeps of a layer besides its input, from most memory and
# fewest repeated operations to least and most.
REMAT = {
    "none": None,  # everything that the backward pass reads
    "dots": _save(PRODUCT, CONTEXT),  # norms, RoPE and activations are computed twice
    "projections": _save("query", "key", "value", CONTEXT),
    "context": _save(CONTEXT),  # attention is not computed twice
    "full": jax.checkpoint_policies.nothing_saveable,
}
# Layers per scan step; elsewhere 1. On CPU more compile longer and run hardly faster. On
# GPU the loop copies weights and what is kept for the backward pass; without it a step is
# faster, and compiles longer.
UNROLL = {"cpu": 8, "gpu": 32}
# Bytes of the weights of a scan step on CPU: it holds copies of its layers', all at once.
# Large layers gain nothing from unrolling.
CPU_UNROLL_BYTES = 2**27


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a forward pass is run; none of it changes what is computed.

    Attributes:
      dtype: of activations and products; parameters keep their own.
      remat: what the backward pass recomputes of each layer, see `REMAT`.
      unroll: layers per scan step, at most; 0 chooses, see `UNROLL`, on CPU of
        `CPU_UNROLL_BYTES` together.
      attention: the kernel, see `attention_kernels`; "auto" chooses.
    """

    dtype: Literal["float32", "bfloat16"]
    remat: Literal["none", "dots", "projections", "context", "full"]
    unroll: int
    attention: attention_kernels.Kind

    def __post_init__(self):
        choice(self.dtype, ("float32", "bfloat16"), "config.compute.dtype")
        choice(self.remat, tuple(REMAT), "config.compute.remat")
        choice(self.attention, attention_kernels.KINDS, "config.compute.attention")
        at_least(0, self, "config.compute", "unroll")

    def layers_per_step(self, platform: str, layer_bytes: int) -> int:
        """Layers that a scan step runs on a platform.

        Args:
          layer_bytes: of a layer's weights in the compute dtype.
        """
        chosen = UNROLL.get(platform, 1)
        if platform == "cpu":
            chosen = min(chosen, max(1, CPU_UNROLL_BYTES // max(1, layer_bytes)))
        return self.unroll or chosen

    def of_micro_batches(self, platform: str) -> "Compute":
        """How micro-batches are run one after another: on GPU with the loop over layers.

        Without it the compiler cuts the layers' weights apart before the loop over
        micro-batches, a copy of all of them.
        """
        looped = platform == "gpu" and not self.unroll
        return dataclasses.replace(self, unroll=1) if looped else self


# Of a model in code that names none; runs have their config's.
DEFAULT_COMPUTE = Compute("float32", "none", unroll=1, attention="auto")
