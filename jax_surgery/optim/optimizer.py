# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a run, and the size of its steps."""

import dataclasses
import functools
from typing import Literal

import jax
import optax

from jax_surgery.config import at_least, positive
from jax_surgery.models.trainable import ALL, Params, Trainable, matrix_name
from jax_surgery.optim import muon, rounding
from jax_surgery.optim.adafactor import scale_by_adafactor
from jax_surgery.optim.precondition.directions import (
    DIRECTIONS,
    OF_OUTPUTS,
    preconditioned_steps,
)


@dataclasses.dataclass(frozen=True)
class OptimizerChoice:
    """The optimizer and the size of its steps.

    Attributes:
      name: "adamw"; "adafactor" (factored second moments, none of the first); "sgd";
        "muon" (on the layers' matrices, with AdamW on embedding, head and norms);
        "natural", "orthogonal" or "kfac" (see `precondition.directions`).
      learning_rate: the peak rate. For "adamw", "adafactor" and "muon" the size of an
        element's step, so one that suits the first suits the others about as well; for
        those of `precondition.directions` the largest step, as a fraction of the norm of all
        moving matrices together.
      warmup: steps from 0 to the peak.
      schedule: "cosine", "linear" (both down to `final` of the peak) or "constant".
      final: the rate at the end as a fraction of the peak, 0 to 1.
      clip: norm of all that moves' gradients to clip at; 0 for none (not where
        the direction is preconditioned).
      weight_decay: a step's, times the learning rate; not of norms and biases (not where
        the direction is preconditioned).
      b1, b2: decays of AdamW's moments ("adamw", "muon").
      momentum: of the gradients ("sgd", "muon" in Nesterov's form, and those of
        `precondition.directions`); 0 for none. Muon is used with 0.95.
      moment_dtype: of AdamW's first moment and of the momentum, "float32" or "bfloat16"
        ("adamw", "sgd", "muon"); see `rounding`.
      second_moment_dtype: of AdamW's second moment ("adamw", "muon").
      first_layer: the first layer that moves; negative counts from the end.
      matrices: comma-separated matrices of each layer that move (q, k, v, o, gate, up,
        down); "" is every parameter, all seven where the direction is preconditioned.
    """

    name: Literal["adamw", "adafactor", "sgd", "muon", "natural", "orthogonal", "kfac"]
    learning_rate: float
    warmup: int
    schedule: Literal["cosine", "linear", "constant"]
    final: float
    clip: float
    weight_decay: float
    b1: float
    b2: float
    momentum: float
    first_layer: int
    matrices: str
    moment_dtype: Literal["float32", "bfloat16"]
    second_moment_dtype: Literal["float32", "bfloat16"]

    @property
    def preconditioned(self) -> bool:
        """Whether it needs the second moments of the retained text."""
        return self.name in DIRECTIONS

    @property
    def reads_outputs(self) -> bool:
        """Whether it needs those of the gradients of outputs too."""
        return self.name in OF_OUTPUTS

    def __post_init__(self):
        positive(self.learning_rate, "config.optimizer.learning_rate")
        at_least(0, self, "config.optimizer", "clip", "weight_decay")
        for name in ("momentum", "b1", "b2"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(
                    f"config.optimizer.{name}={value}; use 0 (none) to below 1."
                )
        if not 0 <= self.final <= 1:
            raise ValueError(
                f"config.optimizer.final={self.final} is a part of the peak; use 0 to 1."
            )


def make_schedule(choice: OptimizerChoice, steps: int) -> optax.Schedule:
    """The learning rate (or step size) at each of `steps` steps.

    Raises:
      ValueError: no steps, or fewer than the warmup.
    """
    if steps < 1 or not 0 <= choice.warmup < steps:
        raise ValueError(
            f"{steps} steps with config.optimizer.warmup={choice.warmup}: there must be at "
            "least 1 step, and more than the warmup; lower config.optimizer.warmup or train "
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


def _adam(choice: OptimizerChoice) -> optax.GradientTransformation:
    dtypes = {"mu": choice.moment_dtype, "nu": choice.second_moment_dtype}
    return rounding.stored(optax.scale_by_adam(choice.b1, choice.b2), dtypes)


def _momentum(choice: OptimizerChoice, nesterov: bool) -> optax.GradientTransformation:
    if not choice.momentum:
        return optax.identity()
    trace = optax.trace(choice.momentum, nesterov)
    return rounding.stored(trace, {"trace": choice.moment_dtype})


def _muon(choice: OptimizerChoice) -> optax.GradientTransformation:
    """Muon on the layers' matrices, AdamW on embedding, head and norms."""

    def labels(tree):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "muon" if matrix_name(path) else "adamw", tree
        )

    orthogonal = optax.chain(_momentum(choice, nesterov=True), muon.orthogonal_steps())
    return optax.partition({"muon": orthogonal, "adamw": _adam(choice)}, labels)


def _decays(params: Params) -> Params:
    """True where weights decay: everywhere but in norms and biases, and in where low-rank
    factors began."""
    still = ("scale", "bias", "start_a", "start_b")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in still, params
    )


def _moving(
    inner: optax.GradientTransformation, trainable: Trainable
) -> optax.GradientTransformation:
    """`inner` on the parameters that move; the others have no state and no step."""
    if not trainable.matrices:
        return inner

    def update(updates, state, params=None):
        moving = trainable.cut(updates), state, trainable.cut(params)
        steps, state = inner.update(*moving)
        return trainable.paste(steps, updates), state

    return optax.GradientTransformation(
        lambda params: inner.init(trainable.cut(params)), update
    )


def make_optimizer(
    choice: OptimizerChoice,
    steps: int,
    trainable: Trainable = ALL,
    own_metric: bool = False,
) -> optax.GradientTransformation:
    """The optimizer for a run of `steps` steps.

    Its state's arrays have the shapes of their parameters, or are Adafactor's
    means of rows and columns, or scalars. What does not move has no state.

    Args:
      choice: the optimizer and its options.
      steps: the number of steps of the run.
      trainable: the parameters that move.
      own_metric: see `preconditioned_steps`; others do not ask.
    """
    schedule = make_schedule(choice, steps)
    if choice.preconditioned:
        of = (choice.name, schedule, choice.momentum, trainable)
        return preconditioned_steps(*of, own_metric)
    make_direction = {
        "adamw": _adam,
        "adafactor": lambda _: scale_by_adafactor(),
        "sgd": functools.partial(_momentum, nesterov=False),
        "muon": _muon,
    }[choice.name]
    clip = optax.clip_by_global_norm(choice.clip) if choice.clip else optax.identity()
    inner = optax.chain(
        make_direction(choice),
        optax.add_decayed_weights(choice.weight_decay, _decays),
        optax.scale_by_learning_rate(schedule),
    )
    # Each of what moves: the norm of all would write the zeros of what does not.
    return optax.chain(_moving(clip, trainable), _moving(inner, trainable))
