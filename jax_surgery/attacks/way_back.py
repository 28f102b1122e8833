# SPDX-License-Identifier: Apache-2.0
"""Part of the way back: weights between the model and the one before the unlearning.

Where the model before is at hand, as one that was published first, its knowledge needs no
attack. What is asked here is how far away the knowledge lies: a model whose weights hide it
says it again a short way from where it is, and one that never knew it does not.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from jax_surgery.attacks.base import Target
from jax_surgery.attacks.without_training import Variant, WithoutTraining
from jax_surgery.models.model import Model


@jax.jit
def between(params: Any, before: Any, share: float) -> Any:
    """Parameters a share of the way from `params` to `before`, in the former's dtypes."""
    return jax.tree.map(
        lambda a, b: (a + share * (b.astype(a.dtype) - a)).astype(a.dtype),
        params,
        before,
    )


@dataclasses.dataclass(frozen=True)
class WayBack(WithoutTraining):
    """Moves all weights some of the way to the model before.

    Attributes:
      shares: of the way, each tried by itself.
    """

    shares: tuple[float, ...] = (0.05, 0.1, 0.25)

    def __post_init__(self):
        if not self.shares or not all(0 < share < 1 for share in self.shares):
            given = "+".join(map(str, self.shares))
            raise ValueError(f"way_back:shares={given} must lie between 0 and 1.")

    def lacks(self, target: Target) -> str:
        """See `base.lacking`."""
        if target.before:
            return ""
        return (
            "way_back needs the model before the unlearning, which is not at hand: give "
            "config.before (of a finished run's workdir it is known)."
        )

    def variants(self, model: Model, target: Target, seed: int) -> Iterator[Variant]:
        """See `WithoutTraining`.

        Raises:
          ValueError: the model before has other weights.
        """
        del seed
        if target.before is None:
            raise ValueError(self.lacks(target))
        before = target.before()
        shapes = [
            [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves]
            for leaves in map(
                jax.tree_util.tree_leaves_with_path, (model.params, before.params)
            )
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"config.before={before.source!r} has other weights than the model that "
                "is attacked; give the model that the unlearning began with."
            )
        for share in self.shares:
            params = between(model.params, before.params, share)
            label = f"{share:.0%} of the way to the model before"
            yield Variant(label, model.with_params(params))
