# SPDX-License-Identifier: Apache-2.0
"""LoRA on the same groups: an adapter is trained on the batches of a stage."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_surgery.checkpoints import peft_adapter
from jax_surgery.checkpoints.peft_adapter import Adapter
from jax_surgery.data.batch import Batch
from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.subspace import identify, rounds
from jax_surgery.methods.subspace.stage import Stage
from jax_surgery.methods.subspace.work import Work
from jax_surgery.models import sharding
from jax_surgery.models.compute import Compute
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.trainable import Trainable
from jax_surgery.optim import lora
from jax_surgery.parallel import distributed
from jax_surgery.train.loop import train
from jax_surgery.train.step import (
    LossFn,
    Metrics,
    TrainState,
    init_state,
    make_train_step,
)

CLIP = 1.0  # norm of the gradient of all factors


@dataclasses.dataclass(frozen=True)
class Pull:
    """`identify.pull` as what a training step minimises (see `train.step.Loss`)."""

    loss: identify.TaskLoss

    def prepare(self, batch: Batch, *_: Any) -> Batch:
        """It is a sum, and reads no frozen model."""
        return batch

    def make(
        self,
        config: ModelConfig,
        rows: RoleRows,
        compute: Compute,
        trainable: Trainable,
    ) -> LossFn:
        """The pure loss of a batch with token weights."""

        def loss_fn(params: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
            value, sums = identify.pull(
                params, config, batch, self.loss, compute, trainable
            )
            return value, sums | {"loss": value}

        return loss_fn


def first_factors(work: Work) -> Any:
    """Factors to begin with: new ones, or the adapter's that the config names.

    Raises:
      FileNotFoundError, ValueError: see `peft_adapter.load_adapter`, or the adapter is
        of another rank, alpha or set of matrices than `config.lora`.
    """
    settings = work.how
    wanted = settings.low_rank
    if not settings.adapter:
        return lora.init_factors(work.model.config, wanted, settings.seed)
    found = peft_adapter.load_adapter(settings.adapter, work.model.config)
    there = (found.rank, found.alpha, found.matrices)
    asked = (wanted.rank, wanted.alpha, wanted.targets)
    if there != asked:
        flags = (
            f"--config.lora.rank={found.rank} --config.lora.alpha={found.alpha:g} "
            f"--config.rounds.matrices={','.join(found.matrices)}"
        )
        raise ValueError(
            f"config.adapter={settings.adapter} has other settings than config.lora; "
            f"give it {flags}."
        )
    return sharding.place(jax.tree.map(jnp.asarray, found.factors))


def attached(work: Work, factors: Any) -> Any:
    """Parameters that run as the model with the adapter."""
    return lora.attach(work.model.params, factors, work.how.low_rank)


def adapt(stage: Stage, factors: Any) -> Any:
    """The factors after a stage's steps."""
    work, settings, model = stage.work, stage.work.how, stage.work.model
    batches = stage.batches()
    # Both score the model before now, because the steps donate these factors.
    goal, _ = stage.goal, stage.health
    adam = optax.adam(settings.optimizer.learning_rate)
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), adam)
    step = make_train_step(
        model.config,
        Pull(rounds.of(work).loss),
        batches.rows,
        optimizer,
        compute=model.compute,
        trainable=work.trainable,
        low_rank=settings.low_rank,
    )

    def until(number: int, state: TrainState, metrics: dict[str, float]) -> bool:
        return goal.reached(attached(work, state.params))

    return train(
        lambda state, batch: step(state, batches.batch(batch), model.params),
        init_state(factors, optimizer),
        batches.stream(),
        steps=settings.rounds.number,
        directory=stage.directory,
        settings=settings.loop,
        title=f"{'learn' if stage.learns else 'unlearn'} (LoRA) {', '.join(stage.targets)}",
        until=until if settings.rounds.stop else None,
        collapsed=lambda state: stage.collapsed(attached(work, state.params)),
    ).params


def save(factors: Any, work: Work, directory: str) -> None:
    """Writes the adapter in PEFT's format, on the lead process."""
    if distributed.is_lead():
        wanted, model = work.how.low_rank, work.model
        adapter = Adapter(factors, wanted.rank, wanted.alpha, wanted.targets)
        peft_adapter.save_adapter(adapter, model.config, directory, model.source)
