# SPDX-License-Identifier: Apache-2.0
"""LoRA on the same groups: an adapter is trained on the batches of a stage."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.checkpoints import peft_adapter
from jax_surgery.checkpoints.peft_adapter import Adapter
from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import low_rank as low_rank_steps
from jax_surgery.methods.subspace.batches import WeightedBatches
from jax_surgery.methods.subspace.stage import Stage
from jax_surgery.methods.subspace.work import Work
from jax_surgery.models import sharding
from jax_surgery.optim import lora
from jax_surgery.optim.optimizer import OptimizerChoice, make_optimizer
from jax_surgery.parallel import distributed
from jax_surgery.train.loop import train


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
    work, settings = stage.work, stage.work.how
    batches = WeightedBatches(stage, stage.targets, learn=stage.learns, guarded=True)
    goal = stage.goal  # Now, because the steps donate these factors.
    choice = OptimizerChoice(
        name="adamw",
        learning_rate=settings.optimizer.learning_rate,
        warmup=0,
        schedule="constant",
        final=0.0,
        clip=1.0,
        weight_decay=0.0,
        b1=0.9,
        b2=0.999,
        momentum=0.0,
        first_layer=0,
        matrices="",
        moment_dtype="float32",
        second_moment_dtype="float32",
    )
    optimizer = make_optimizer(choice, settings.rounds.number, work.trainable)
    step = low_rank_steps.make_step(
        work.model.config,
        work.model.compute,
        settings.subspace.task_loss,
        settings.low_rank,
        work.trainable,
        optimizer,
    )

    def one_step(state: low_rank_steps.AdapterState, batch: Batch):
        return step(state, batches.batch(batch), work.model.params)

    def until(number: int, state: Any, metrics: dict[str, float]) -> bool:
        return goal.reached(attached(work, state.factors))

    return train(
        one_step,
        low_rank_steps.AdapterState(factors, optimizer.init(factors)),
        batches.stream(),
        steps=settings.rounds.number,
        directory=stage.directory,
        settings=settings.loop,
        title=f"{'learn' if stage.learns else 'unlearn'} (LoRA) {', '.join(stage.targets)}",
        until=until if settings.rounds.stop else None,
    ).factors


def save(factors: Any, work: Work, directory: str) -> None:
    """Writes the adapter in PEFT's format, on the lead process."""
    if distributed.is_lead():
        wanted, model = work.how.low_rank, work.model
        adapter = Adapter(factors, wanted.rank, wanted.alpha, wanted.targets)
        peft_adapter.save_adapter(adapter, model.config, directory, model.source)
