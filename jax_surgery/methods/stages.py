# SPDX-License-Identifier: Apache-2.0
"""The stages of a run: which method changes the knowledge of which roles.

    surgery                              one stage, of all roles
    surgery@update;subspace@unlearn      updates by descent, then unlearns by subspaces

A stage is METHOD, METHOD:FIELD=VALUE,... or either with "@" and the roles that it
changes, joined by "+". Retained text takes part in every stage; stages by subspaces also
retain what earlier stages have updated. An update by descent after a removal may bring
back what was removed.
"""

import dataclasses

from jax_surgery import methods
from jax_surgery.config import names
from jax_surgery.data.role_names import ROLES
from jax_surgery.methods.base import Method
from jax_surgery.methods.subspace.method import Subspace

CHANGED = tuple(role for role in ROLES if role != "retain")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
      text: "NAME" or "NAME:FIELD=VALUE,...".
      method: that it names.
      roles: that it changes, of `CHANGED`.
    """

    text: str
    method: Method
    roles: tuple[str, ...]

    @property
    def descends(self) -> bool:
        """Whether it descends along a loss; else it changes subspaces."""
        return not isinstance(self.method, Subspace)


def parse_stages(text: str) -> list[Stage]:
    """The stages of `config.method`.

    Raises:
      ValueError: no stage, an unknown role, a subspace method of two roles, or see
        `methods.parse`.
    """
    stages = []
    for part in names(text, ";"):
        method, _, given = map(str.strip, part.partition("@"))
        roles = tuple(n.strip() for n in given.split("+")) if given else CHANGED
        for role in roles:
            if role not in CHANGED:
                raise ValueError(
                    f"config.method={text!r}: {role!r} is no role that a method "
                    f"changes; use {' or '.join(CHANGED)} after @, or both with +."
                )
        stage = Stage(method, methods.parse(method), roles)
        if not stage.descends and len(roles) > 1:
            raise ValueError(
                f"config.method={text!r}: {method!r} changes one role a stage; write "
                f"{method}@unlearn, or {method}@unlearn;{method}@update."
            )
        stages.append(stage)
    if not stages:
        raise ValueError("config.method is empty; use 'surgery', say.")
    return stages
