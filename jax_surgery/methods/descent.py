# SPDX-License-Identifier: Apache-2.0
"""Methods that descend along gradients: their optimizer, step and run."""

from jax_surgery.data.role_rows import RoleRows
from jax_surgery.methods.settings import SurgerySettings
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim.optimizer import make_optimizer
from jax_surgery.train.step import make_train_step


def make_step(settings: SurgerySettings, config: ModelConfig, rows: RoleRows):
    """The optimizer of a run and its jitted step (see `step.make_train_step`)."""
    trainable, low_rank = settings.trainable(config), settings.lora
    optimizer = make_optimizer(settings.optimizer, settings.steps, trainable)
    step = make_train_step(
        config,
        settings.loss,
        rows,
        optimizer,
        compute=settings.compute,
        average=settings.data.average,
        accumulate=settings.accumulate,
        trainable=trainable,
        low_rank=low_rank,
    )
    return optimizer, step
