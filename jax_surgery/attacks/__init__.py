# SPDX-License-Identifier: Apache-2.0
"""Attacks: how an adversary may bring back what was removed from a model.

A new attack is one file with a frozen dataclass (see `attacks.base.Attack`) and one line
in `ATTACKS`; `tests/conformance/test_attacks.py` then tests it.
"""

import contextlib
import itertools
import typing
from typing import NamedTuple

from jax_surgery import plugins
from jax_surgery.attacks.base import Attack, Attacked, Budget, Target
from jax_surgery.attacks.beginnings import Beginnings
from jax_surgery.attacks.blocks import Blocks
from jax_surgery.attacks.exits import Exits
from jax_surgery.attacks.hints import Hints
from jax_surgery.attacks.linear_probe import LinearProbe
from jax_surgery.attacks.paraphrase import Paraphrase
from jax_surgery.attacks.quantisation import Quantisation
from jax_surgery.attacks.relearning import Relearning
from jax_surgery.attacks.samples import Samples
from jax_surgery.attacks.way_back import WayBack
from jax_surgery.config import names

ATTACKS: dict[str, type] = {
    "relearning": Relearning,
    "blocks": Blocks,
    "exits": Exits,
    "quantisation": Quantisation,
    "hints": Hints,
    "paraphrase": Paraphrase,
    "beginnings": Beginnings,
    "samples": Samples,
    "linear_probe": LinearProbe,
    "way_back": WayBack,
}
BETWEEN = ";"  # attacks that are named together
# Names of several attacks; of these, those are left out that lack something.
UNTRAINED = "blocks;exits;quantisation;hints;paraphrase;beginnings;samples;linear_probe;way_back"
# Relearning by the protocol of Dorna et al. 2025 (OpenUnlearning, arXiv 2506.12618): one
# pass over all of it in batches of 32.
STANDARD = (
    "relearning:on=all,learning_rate=2e-5,schedule=linear,passes=1,texts=32,rows=0"
)
GRID = (
    f"{STANDARD}"
    ";relearning:learning_rate=1e-4+3e-4+1e-3,seed=0+1"
    ";relearning:learning_rate=1e-3+3e-3,rank=8,seed=0+1"
    ";relearning:learning_rate=3e-5+1e-4,optimizer=lion,seed=0+1"
    ";relearning:learning_rate=3e-2+1e-1,optimizer=sgd,seed=0+1"
    ";relearning:on=related,learning_rate=3e-4+1e-3,seed=0+1"
    ";relearning:on=retained,learning_rate=3e-4+1e-3,seed=0+1"
)
SETS = {
    "untrained": UNTRAINED,
    "standard": STANDARD,
    "grid": GRID,
    "all": f"{UNTRAINED};{GRID}",
}


class Named(NamedTuple):
    """An attack that a config names.

    Attributes:
      spec: names it alone.
      family: what it is one of, as the config has it: a grid of options.
      attack: itself.
      optional: whether it is left out where the adversary lacks what it needs.
    """

    spec: str
    family: str
    attack: Attack
    optional: bool = False


def parse(spec: str, path: str = "config.attack") -> Attack:
    """The attack that a config names, e.g. "relearning:learning_rate=3e-4".

    Raises:
      ValueError: see `plugins.parse`.
    """
    return plugins.parse(spec, ATTACKS, path)


def parse_all(specs: str, path: str = "config.attack") -> list[Named]:
    """Attacks of a text such as "blocks; exits:last=4"; [] of "".

    An option with several values, "learning_rate=1e-4+1e-3,seed=0+1", stands for as many
    attacks, one for each combination of values: their family. A name in `SETS` stands for
    several attacks.

    Raises:
      ValueError: see `plugins.parse`, or one is named twice.
    """
    found = []
    for given in names(specs, BETWEEN):
        for family in names(SETS.get(given, given), BETWEEN):
            found += [
                Named(spec, family, parse(spec, path), given in SETS)
                for spec in _combinations(family, path)
            ]
    each = [one.spec for one in found]
    if twice := sorted({spec for spec in each if each.count(spec) > 1}):
        raise ValueError(f"{path}={specs!r} names {twice[0]!r} twice; name it once.")
    return found


def _combinations(family: str, path: str) -> list[str]:
    """What names each combination of the values of options, of one that takes one value."""
    name, mark, options = family.partition(":")
    kinds = typing.get_type_hints(plugins.find(name.strip(), ATTACKS, path))
    values = []
    for option in names(options):
        key, equals, text = option.partition("=")
        kind = kinds.get(key.strip())
        several = typing.get_origin(kind) is not tuple and not _is_number(text)
        each = names(text, plugins.SEPARATOR) if several else [text]
        values.append([f"{key}{equals}{one}" for one in each or [text]])
    return [f"{name}{mark}{','.join(each)}" for each in itertools.product(*values)]


def _is_number(text: str) -> bool:
    """Whether a text is one number, such as 1e+4."""
    with contextlib.suppress(ValueError):
        return bool(float(text)) or True
    return False


__all__ = [
    "ATTACKS",
    "SETS",
    "Attack",
    "Attacked",
    "Budget",
    "Named",
    "Target",
    "parse",
    "parse_all",
]
