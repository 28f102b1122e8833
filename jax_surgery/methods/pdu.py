# SPDX-License-Identifier: Apache-2.0
"""Primal-dual unlearning (PDU, Entesari et al. 2025, arXiv 2506.05314).

    min over theta of  mean (max_v z_v - mean_v z_v)^2   subject to  CE(retain) <= epsilon

over the logits z that predict learned tokens: a flat prediction knows nothing. The
constraint has a dual variable, the weight of the retain term:

    lambda <- max(0, lambda + eta (CE(retain) - epsilon))     after each step

so that text is retained just as well as epsilon asks (`methods.dual`). open-unlearning's
code takes the logits at the tokens themselves, one place late, so that the first token of
an answer is never forgotten (`late=true` does that too). It moves lambda at each
micro-batch and on each device by that one's own loss; here all devices have one lambda,
and a step of several micro-batches moves it once.
"""

import dataclasses

import jax

from jax_surgery.config import positive
from jax_surgery.data.batch import Batch
from jax_surgery.methods.base import LogitMethod


@dataclasses.dataclass(frozen=True)
class PDU(LogitMethod):
    """Flattens what the model says, as far as retained text allows.

    Attributes:
      epsilon: nats per token of retained text that are allowed, as published 0.3; what the
        model begins with and a little more.
      eta: step of lambda, per nat per token.
      start: lambda before the first step.
      warmup: steps before lambda moves.
      late: whether the logits at the tokens themselves are flattened, as in
        open-unlearning, and not those that predict them.
    """

    epsilon: float = 0.3
    eta: float = 1.0
    start: float = 1.0
    warmup: int = 0
    late: bool = False

    roles = ("unlearn", "retain")
    retains = "nll"
    bound = "hold more text (a smaller epsilon in config.method)"

    def __post_init__(self):
        positive(self.eta, "config.method=pdu:eta")
        for name in ("epsilon", "start", "warmup"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"config.method=pdu:{name}={value}; use 0 or more.")

    def weights(self, batch: Batch) -> jax.Array:
        return batch.weights_BT if self.late else super().weights(batch)

    def unlearn(self, logits_CV, targets_C, frozen_CV) -> jax.Array:
        del targets_C, frozen_CV
        return (logits_CV.max(-1) - logits_CV.mean(-1)) ** 2
