# SPDX-License-Identifier: Apache-2.0
"""Attacks: how an adversary may bring back what was removed from a model.

A new attack is one file with a frozen dataclass (see `attacks.base.Attack`) and one line
in `ATTACKS`; `tests/conformance/test_attacks.py` then tests it.
"""

from jax_surgery import plugins
from jax_surgery.attacks.base import Attack, Attacked, Budget, Target
from jax_surgery.attacks.blocks import Blocks
from jax_surgery.attacks.exits import Exits
from jax_surgery.attacks.hints import Hints
from jax_surgery.attacks.quantisation import Quantisation
from jax_surgery.attacks.relearning import Relearning

ATTACKS: dict[str, type] = {
    "relearning": Relearning,
    "blocks": Blocks,
    "exits": Exits,
    "quantisation": Quantisation,
    "hints": Hints,
}
BETWEEN = ";"  # attacks that are named together


def parse(spec: str, path: str = "config.attack") -> Attack:
    """The attack that a config names, e.g. "relearning:learning_rate=3e-4".

    Raises:
      ValueError: see `plugins.parse`.
    """
    return plugins.parse(spec, ATTACKS, path)


def parse_all(specs: str, path: str = "config.attack") -> dict[str, Attack]:
    """Attacks by what names them, of a text such as "blocks; exits:last=4"; {} of "".

    Raises:
      ValueError: see `plugins.parse`, or one is named twice.
    """
    each = [spec.strip() for spec in specs.split(BETWEEN) if spec.strip()]
    if twice := sorted({spec for spec in each if each.count(spec) > 1}):
        raise ValueError(f"{path}={specs!r} names {twice[0]!r} twice; name it once.")
    return {spec: parse(spec, path) for spec in each}


__all__ = ["ATTACKS", "Attack", "Attacked", "Budget", "Target", "parse", "parse_all"]
