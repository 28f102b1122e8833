# SPDX-License-Identifier: Apache-2.0
"""LoRA on the same tasks: adapters are trained by the pushes of a stage."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_surgery.checkpoints import peft_adapter
from jax_surgery.data.batch import Batch
from jax_surgery.methods.subspace import low_rank as low_rank_steps
from jax_surgery.methods.subspace.operate import Pushes, Stage
from jax_surgery.methods.subspace.settings import SubspaceSettings
from jax_surgery.methods.subspace.subject import Subject
from jax_surgery.models import sharding
from jax_surgery.optim import lora
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.parallel import distributed
from jax_surgery.train.loop import train


def first_factors(subject: Subject) -> Any:
    """Factors to begin with: new ones, or the adapter's that the config names.

    Raises:
      FileNotFoundError, ValueError: see `peft_adapter.load_adapter`, or the adapter is
        of another rank, alpha or set of matrices than `config.lora`.
    """
    settings = subject.settings
    wanted = settings.lora
    if not settings.adapter:
        return lora.init_factors(subject.config, wanted, settings.seed)
    found = peft_adapter.load_adapter(settings.adapter, subject.config)
    there = (found.rank, found.alpha, found.matrices)
    asked = (wanted.rank, wanted.alpha, wanted.targets)
    if there != asked:
        flags = (
            f"--config.lora.rank={found.rank} --config.lora.alpha={found.alpha:g} "
            f"--config.lora.matrices={','.join(found.matrices)}"
        )
        raise ValueError(
            f"config.adapter={settings.adapter} has other settings than config.lora; "
            f"give it {flags}."
        )
    return sharding.place(jax.tree.map(jnp.asarray, found.factors))


def attached(subject: Subject, factors: Any) -> Any:
    """Parameters that run as the model with the adapter."""
    return lora.attach(subject.params, factors, subject.settings.lora)


def adapt(stage: Stage, factors: Any) -> Any:
    """The factors after a stage's steps."""
    subject, settings = stage.subject, stage.subject.settings
    pushes = Pushes(stage, stage.targets, up=settings.learns, guarded=True)
    goal = stage.goal  # now: the steps give up the factors that it is asked of
    trainable = settings.trainable(subject.config)
    optimizer = make_optimizer(settings.optimizer, settings.rounds.number, trainable)
    step = low_rank_steps.make_step(
        subject.config,
        settings.compute,
        settings.identify.task_loss,
        settings.lora,
        trainable,
        optimizer,
    )

    def one_step(state: low_rank_steps.AdapterState, batch: Batch):
        return step(state, pushes.batch(batch), subject.params)

    def until(number: int, state: Any, metrics: dict[str, float]) -> bool:
        return goal.reached(attached(subject, state.factors))

    return train(
        one_step,
        low_rank_steps.AdapterState(factors, optimizer.init(factors)),
        pushes.stream(),
        steps=settings.rounds.number,
        directory=stage.directory,
        settings=settings.loop,
        title=f"{settings.run} (LoRA) {', '.join(stage.targets)}",
        until=until if settings.rounds.stop else None,
    ).factors


def save(factors: Any, subject: Subject, directory: str) -> None:
    """Writes the adapter in PEFT's format; of many processes one does."""
    wanted: SubspaceSettings = subject.settings
    if not distributed.is_lead():
        return
    peft_adapter.save_adapter(
        factors,
        subject.config,
        directory,
        rank=wanted.lora.rank,
        alpha=wanted.lora.alpha,
        matrices=wanted.lora.targets,
        base=subject.source,
    )
