# SPDX-License-Identifier: Apache-2.0
"""Attacks: how an adversary may bring back what was removed from a model.

A new attack is one file with a frozen dataclass (see `attacks.base.Attack`) and one line
in `ATTACKS`; `tests/conformance/test_attacks.py` then tests it.
"""

from jax_surgery import plugins
from jax_surgery.attacks.base import Attack, Attacked, Budget, Target
from jax_surgery.attacks.relearning import Relearning

ATTACKS: dict[str, type] = {"relearning": Relearning}


def parse(spec: str) -> Attack:
    """The attack that `config.attack` names, e.g. "relearning:learning_rate=3e-4".

    Raises:
      ValueError: see `plugins.parse`.
    """
    return plugins.parse(spec, ATTACKS, "config.attack")


__all__ = ["ATTACKS", "Attack", "Attacked", "Budget", "Target", "parse"]
