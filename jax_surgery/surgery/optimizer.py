# SPDX-License-Identifier: Apache-2.0
"""Optimizers: AdamW, and preconditioned steps of a stated size."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_surgery.surgery import precondition

OPTIMIZERS = ("adamw", "preconditioned")
SCHEDULES = ("cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class OptimizerChoice:
    """What the optimizer is and how large its steps are.

    Attributes:
      name: "adamw", or "preconditioned" (see `precondition`).
      learning_rate: AdamW's peak rate; for "preconditioned" the largest step, as a
        fraction of the norm of all matrices together.
      warmup: steps from 0 to the peak.
      schedule: "cosine", "linear" (both down to `final` of the peak) or "constant".
      final: what is left of the rate at the end, 0 to 1.
      clip: global gradient norm to clip at (AdamW); 0 for none.
      weight_decay, b1, b2: AdamW's.
      momentum: of the normalised steps ("preconditioned"); 0 for none.
    """

    name: Literal["adamw", "preconditioned"] = "adamw"
    learning_rate: float = 1e-5
    warmup: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final: float = 0.0
    clip: float = 1.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    momentum: float = 0.0

    def __post_init__(self):
        for name, allowed in (("name", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"optimizer.{name}={getattr(self, name)!r}; choose one of "
                    f"{', '.join(allowed)}."
                )
        if self.learning_rate <= 0:
            raise ValueError(
                f"optimizer.learning_rate={self.learning_rate} must be positive."
            )


def make_schedule(choice: OptimizerChoice, steps: int) -> optax.Schedule:
    """The learning rate (or step size) at each of `steps` steps.

    Raises:
      ValueError: no steps, or fewer than the warmup.
    """
    if steps < 1 or not 0 <= choice.warmup < steps:
        raise ValueError(
            f"{steps} steps with optimizer.warmup={choice.warmup}: there must be at "
            "least 1 step, and more than the warmup; lower optimizer.warmup or train "
            "longer."
        )
    peak, decay = choice.learning_rate, steps - choice.warmup
    after = {
        "cosine": optax.cosine_decay_schedule(peak, decay, choice.final),
        "linear": optax.linear_schedule(peak, peak * choice.final, decay),
        "constant": optax.constant_schedule(peak),
    }[choice.schedule]
    if not choice.warmup:
        return after
    ramp = optax.linear_schedule(0.0, peak, choice.warmup)
    return optax.join_schedules([ramp, after], [choice.warmup])


class PreconditionedState(NamedTuple):
    """State of `preconditioned_steps`.

    Attributes:
      count: steps taken.
      weight_norm: of all matrices together, before the first step.
      velocity: momentum, or () without.
      inverses: of `precondition.invert`; the identity until they are set. They are
        part of the state so that a resumed run is bit-equal.
    """

    count: jax.Array
    weight_norm: jax.Array
    velocity: Any
    inverses: precondition.Inverses


def _matrices(tree: Any) -> Any:
    """The parts of the tree that `precondition` changes."""
    return [tree["layers"][block][name] for block, name in precondition.INPUT_OF]


def preconditioned_steps(
    schedule: optax.Schedule, momentum: float
) -> optax.GradientTransformation:
    """W <- W - s_t ||W_0|| G' / ||G'||, norms over all matrices together.

    G' is the gradient preconditioned by the state's inverses. A zero gradient
    (everything forgotten and learned) makes no step.
    """

    def init(params):
        return PreconditionedState(
            jnp.zeros((), jnp.int32),
            optax.tree.norm(_matrices(params)),
            jax.tree.map(jnp.zeros_like, params) if momentum else (),
            precondition.identity_inverses(params),
        )

    def update(gradients, state, params=None):
        del params
        gradients = precondition.precondition(gradients, state.inverses)
        norm = optax.tree.norm(gradients)
        scale = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1.0), 0.0)
        direction = jax.tree.map(lambda g: scale * g, gradients)
        velocity = state.velocity
        if momentum:
            velocity = jax.tree.map(
                lambda v, d: momentum * v + (1 - momentum) * d, velocity, direction
            )
            direction = velocity
        size = schedule(state.count) * state.weight_norm
        updates = jax.tree.map(lambda d: -size * d, direction)
        return updates, state._replace(count=state.count + 1, velocity=velocity)

    return optax.GradientTransformation(init, update)


def make_optimizer(choice: OptimizerChoice, steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of `steps` steps."""
    schedule = make_schedule(choice, steps)
    if choice.name == "preconditioned":
        return preconditioned_steps(schedule, choice.momentum)
    clip = optax.clip_by_global_norm(choice.clip) if choice.clip else optax.identity()
    adamw = optax.adamw(
        schedule, b1=choice.b1, b2=choice.b2, weight_decay=choice.weight_decay
    )
    return optax.chain(clip, adamw)
