# SPDX-License-Identifier: Apache-2.0
"""Parts of settings with plain values, for tests of single modules.

They are the tests' own: runs have those of `configs/`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jax_surgery.config import build
from jax_surgery.methods.ascent import Surgery
from jax_surgery.methods.loss import Loss
from jax_surgery.methods.objective import Objective
from jax_surgery.models.compute import DEFAULT_COMPUTE, Compute
from jax_surgery.optim.optimizer import OptimizerChoice
from jax_surgery.train.loop import Loop

# The paper's objective, each term as much as another.
OBJECTIVE = Objective(
    alpha=1.0,
    beta=1.0,
    gamma=1.0,
    kl_direction="model_to_reference",
    retain="kl",
    retained_positions="all",
)
OPTIMIZER = OptimizerChoice(
    name="adamw",
    learning_rate=1e-5,
    warmup=0,
    schedule="cosine",
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
LOOP = Loop(
    log_every=1,
    evaluate_every=0,
    evaluate_questions=200,
    checkpoint_every=100,
    keep=2,
)


def plain_objective(
    alpha: float = 1.0, beta: float = 1.0, gamma: float = 1.0, **changes: Any
) -> Objective:
    """`OBJECTIVE` with other weights and other fields changed."""
    return dataclasses.replace(
        OBJECTIVE, alpha=alpha, beta=beta, gamma=gamma, **changes
    )


def plain_loss(
    alpha: float = 1.0, beta: float = 1.0, gamma: float = 1.0, **changes: Any
) -> Loss:
    """`plain_objective` with the paper's ascent; fields of either may be changed."""
    options: dict[str, Any] = {"ascent": "none", "margin": -4.0}
    names = {field.name for field in dataclasses.fields(Surgery)}
    options |= {name: changes.pop(name) for name in names & changes.keys()}
    return Loss(plain_objective(alpha, beta, gamma, **changes), Surgery(**options))


def read(section: Any, path: str, **changes: Any) -> Any:
    """A section with fields changed, read and checked as a config's is."""
    return build(type(section), dataclasses.asdict(section) | changes, path)


def plain_optimizer(
    name: Any = "adamw", learning_rate: float = 1e-5, **changes: Any
) -> OptimizerChoice:
    """`OPTIMIZER` with fields changed."""
    changes |= {"name": name, "learning_rate": learning_rate}
    return dataclasses.replace(OPTIMIZER, **changes)


def plain_compute(dtype: Any = "float32", **changes: Any) -> Compute:
    """`DEFAULT_COMPUTE` with fields changed."""
    return dataclasses.replace(DEFAULT_COMPUTE, dtype=dtype, **changes)


def plain_loop(**changes: Any) -> Loop:
    """`LOOP` with fields changed."""
    return dataclasses.replace(LOOP, **changes)


def texts_by_role(
    texts: Sequence[str], write_texts: Callable[[str, Sequence[str]], str]
) -> dict[str, Any]:
    """Sources and rows of `config.data`: the first three texts are unlearned, get an
    update, and the others are retained.

    Args:
      write_texts: the fixture of this name.
    """
    return {
        "unlearn": write_texts("unlearn", texts[:3]),
        "update": write_texts("update", [f"{t} or so" for t in texts[:3]]),
        "retain": write_texts("retain", texts[3:]),
        "rows_unlearn": 1,
        "rows_update": 1,
        "rows_retain": 2,
    }
