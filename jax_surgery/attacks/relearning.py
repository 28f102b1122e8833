# SPDX-License-Identifier: Apache-2.0
"""Relearning: some of what was removed is trained again, and brings back the rest.

A model that only hides knowledge shows it again after a few steps of training on a part of
it. A model that never knew has to learn the rest, which that part does not contain.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.attacks.base import Attacked, Budget, Target, Watch
from jax_surgery.data.tokens import encode
from jax_surgery.models import flops
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes
from jax_surgery.train import finetune


@dataclasses.dataclass(frozen=True)
class Relearning:
    """Adam on every parameter, of the cross entropy of the adversary's text.

    Attributes:
      learning_rate: of Adam.
      steps: at most.
      texts: drawn for each step, at most.
      rows: of a batch, each a context of tokens; texts that do not fit are left out.
    """

    learning_rate: float = 3e-4
    steps: int = 80
    texts: int = 64
    rows: int = 10

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) <= 0:
                raise ValueError(f"relearning:{field.name}={value} must be above 0.")

    def __call__(
        self, model: Model, target: Target, budget: Budget, seed: int, watch: Watch
    ) -> Attacked:
        """Trains a copy of the model; see `attacks.base.Attack`."""
        documents = encode(target.records, model.tokenizer, target.context)
        rows = meshes.round_rows(self.rows)
        pass_flops = flops.training_flops(
            model.config, rows * target.context, target.context
        )
        rng, spent = np.random.default_rng(seed), Budget()
        watch(spent, model)
        params = jax.tree.map(jnp.copy, model.params)  # a step donates its arguments
        state = finetune.init_adam(params)
        for _ in range(self.steps):
            picks = rng.permutation(len(documents))[: self.texts]
            chosen = [documents[i] for i in picks]
            batch, tokens = finetune.text_batch(chosen, target.context, rows)
            cost = Budget(1, tokens, pass_flops)
            if not budget.allows(spent.plus(cost)):
                break
            params, state = finetune.adam_step(
                *(model.config, model.compute, self.learning_rate),
                *(params, state, batch),
            )
            spent = spent.plus(cost)
            watch(spent, model.with_params(params))
        return Attacked(model.with_params(params), target.probes, spent)
