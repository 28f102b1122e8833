# SPDX-License-Identifier: Apache-2.0
"""Attacks that train nothing: other versions of a model, or of what it is asked, each
asked once."""

import abc
import dataclasses
from collections.abc import Iterable

from jax_surgery.attacks.base import Attacked, Budget, Found, Target, Watch
from jax_surgery.data.probes import Probe
from jax_surgery.models.model import Model


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A model that is asked instead of the attacked one.

    Attributes:
      label: what was done to it, in a few words.
      model: which may be the attacked one.
      probes: what it is asked; None for the target's.
      found: scores that were read in another way; then nothing is asked.
    """

    label: str
    model: Model
    probes: tuple[Probe, ...] | None = None
    found: Found | None = None


class WithoutTraining(abc.ABC):
    """An attack that asks once for each of its variants; see `attacks.base.Attack`."""

    @abc.abstractmethod
    def variants(self, model: Model, target: Target, seed: int) -> Iterable[Variant]:
        """What is asked, one after another.

        Raises:
          ValueError: the target does not have what the options ask for.
        """

    def __call__(
        self, model: Model, target: Target, budget: Budget, seed: int, watch: Watch
    ) -> Attacked:
        """Shows each variant to `watch`, while the budget lasts; each is a step.

        Returns:
          the last variant. Which of them an adversary would take is for `watch` to say.
        """
        spent, last = Budget(), Variant("", model)
        watch(spent, model)
        for variant in self.variants(model, target, seed):
            if not budget.allows(spent.plus(Budget(1))):
                break
            spent, last = spent.plus(Budget(1)), variant
            watch(
                spent,
                variant.model,
                label=variant.label,
                probes=variant.probes,
                found=variant.found,
            )
        return Attacked(last.model, last.probes or target.probes, spent)
