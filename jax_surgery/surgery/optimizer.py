# SPDX-License-Identifier: Apache-2.0
"""Optimizers: AdamW, and steps of a stated size along preconditioned directions."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_surgery.model.config import LlamaConfig
from jax_surgery.model.trainable import ALL, BLOCK_OF, Matrices, Trainable, resolve
from jax_surgery.surgery import precondition

# The directions that are preconditioned on what is kept; see `precondition`.
DIRECTIONS = {
    "natural": precondition.natural,
    "orthogonal": precondition.orthogonal,
}
OPTIMIZERS = ("adamw", *DIRECTIONS)
SCHEDULES = ("cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class OptimizerChoice:
    """What the optimizer is and how large its steps are.

    Attributes:
      name: "adamw", or "natural" or "orthogonal" (see `precondition`).
      learning_rate: AdamW's peak rate; for the others the largest step, as a fraction
        of the norm of all moving matrices together.
      warmup: steps from 0 to the peak.
      schedule: "cosine", "linear" (both down to `final` of the peak) or "constant".
      final: what is left of the rate at the end, 0 to 1.
      clip: global gradient norm to clip at (AdamW); 0 for none.
      weight_decay, b1, b2: AdamW's.
      momentum: of the gradients ("natural", "orthogonal"); 0 for none.
      first_layer: the first layer that moves; negative counts from the end.
      matrices: comma-separated matrices of each layer that move (q, k, v, o, gate, up,
        down); "" is every parameter, all seven where the direction is preconditioned.
    """

    name: Literal["adamw", "natural", "orthogonal"] = "adamw"
    learning_rate: float = 1e-5
    warmup: int = 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final: float = 0.0
    clip: float = 1.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    momentum: float = 0.0
    first_layer: int = 0
    matrices: str = ""

    @property
    def preconditioned(self) -> bool:
        """Whether it needs the second moments of what is kept."""
        return self.name in DIRECTIONS

    def trainable(self, config: LlamaConfig) -> Trainable:
        """The parameters of a model that move.

        Raises:
          ValueError: see `trainable.resolve`.
        """
        every = ",".join(BLOCK_OF) if self.preconditioned else ""
        return resolve(config, self.first_layer, self.matrices or every)

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
        if not 0 <= self.momentum < 1:
            raise ValueError(
                f"optimizer.momentum={self.momentum}; use 0 (none) to below 1."
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
      weight_norm: of all moving matrices together, before the first step.
      velocity: momentum of the matrices' gradients, or () without.
      roots: of `precondition.inverse_roots`; the identity until they are set. They
        are part of the state so that a resumed run is bit-equal.
    """

    count: jax.Array
    weight_norm: jax.Array
    velocity: Any
    roots: precondition.Roots


def preconditioned_steps(
    direction: Callable[[Matrices, precondition.Roots], Matrices],
    schedule: optax.Schedule,
    momentum: float,
    trainable: Trainable,
) -> optax.GradientTransformation:
    """W <- W - s_t ||W_0|| D / ||D||, norms over all moving matrices together.

    D is the direction of the gradient, or of its moving sum v <- momentum v + G,
    under the state's roots. A zero gradient (everything forgotten and learned)
    makes no step.
    """

    def init(params):
        matrices = trainable.take(params)
        return PreconditionedState(
            jnp.zeros((), jnp.int32),
            optax.tree.norm(matrices),
            jax.tree.map(jnp.zeros_like, matrices) if momentum else (),
            precondition.identity_roots(matrices),
        )

    def update(gradients, state, params=None):
        del params
        moving, velocity = trainable.take(gradients), state.velocity
        if momentum:
            velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, moving)
            moving = velocity
        steps = direction(moving, state.roots)
        norm = optax.tree.norm(steps)
        size = schedule(state.count) * state.weight_norm
        scale = jnp.where(norm > 0, -size / jnp.where(norm > 0, norm, 1.0), 0.0)
        steps = jax.tree.map(lambda d: scale * d, steps)
        state = state._replace(count=state.count + 1, velocity=velocity)
        return trainable.put(steps, gradients), state

    return optax.GradientTransformation(init, update)


def make_optimizer(
    choice: OptimizerChoice, steps: int, trainable: Trainable = ALL
) -> optax.GradientTransformation:
    """The optimizer for a run of `steps` steps.

    Args:
      choice: what it is.
      steps: of the run.
      trainable: what moves; AdamW leaves the rest to `step.make_train_step`.
    """
    schedule = make_schedule(choice, steps)
    if choice.preconditioned:
        return preconditioned_steps(
            DIRECTIONS[choice.name], schedule, choice.momentum, trainable
        )
    clip = optax.clip_by_global_norm(choice.clip) if choice.clip else optax.identity()
    adamw = optax.adamw(
        schedule, b1=choice.b1, b2=choice.b2, weight_decay=choice.weight_decay
    )
    return optax.chain(clip, adamw)
