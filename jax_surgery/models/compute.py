# SPDX-License-Identifier: Apache-2.0
"""How a forward pass is run: dtype, kernels, and what the backward pass recomputes."""

import dataclasses
from typing import Literal

import jax

from jax_surgery.config import at_least, choice
from jax_surgery.models import attention_kernels
from jax_surgery.models.attention_kernels import CONTEXT

_save = jax.checkpoint_policies.save_only_these_names
# What the forward pass keeps of a layer besides its input, from most memory and
# fewest repeated operations to least and most.
REMAT = {
    "none": None,  # everything that the backward pass reads
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "projections": _save("query", "key", "value", CONTEXT),
    "context": _save(CONTEXT),  # attention is not computed twice
    "full": jax.checkpoint_policies.nothing_saveable,
}
CPU_UNROLL = 8  # layers; more compile longer and run hardly faster
# Bytes of the weights of a scan step: it holds copies of its layers', all at once. Large
# layers gain nothing from unrolling.
CPU_UNROLL_BYTES = 2**27


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a forward pass is run; none of it changes what is computed.

    Attributes:
      dtype: of activations and products; parameters keep their own.
      remat: what the backward pass recomputes of each layer, see `REMAT`.
      unroll: layers per scan step; 0 chooses: on CPU, where it is fastest, up to
        `CPU_UNROLL` of `CPU_UNROLL_BYTES` together, elsewhere 1.
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
        chosen = min(CPU_UNROLL, max(1, CPU_UNROLL_BYTES // max(1, layer_bytes)))
        return self.unroll or (chosen if platform == "cpu" else 1)


# Of a model in code that names none; runs have their config's.
DEFAULT_COMPUTE = Compute("float32", "none", unroll=1, attention="auto")
