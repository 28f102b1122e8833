# SPDX-License-Identifier: Apache-2.0
"""The stages of a run: which method changes the knowledge of which roles.

    surgery                              one stage, of all roles
    surgery@update;subspace@unlearn      updates by descent, then unlearns by subspaces

A stage is METHOD, METHOD:FIELD=VALUE,... or either with "@" and the roles that it
changes, joined by "+". Retained text takes part in every stage; stages by subspaces also
retain what earlier stages have updated. An update by descent after a removal may bring back what was
removed.
"""

import dataclasses

from jax_surgery import plugins
from jax_surgery.data.role_names import ROLES
from jax_surgery.methods.subspace.settings import DIRECT_METHODS, Subspace

CHANGED = tuple(role for role in ROLES if role != "retain")


@dataclasses.dataclass(frozen=True)
class StageMethod:
    """One stage.

    Attributes:
      method: "NAME" or "NAME:FIELD=VALUE,...".
      roles: that it changes, of `CHANGED`.
    """

    method: str
    roles: tuple[str, ...]

    @property
    def direct(self) -> Subspace | None:
        """The subspace method, parsed; None for methods that descend.

        Raises:
          ValueError: an unknown option, or a wrong value.
        """
        if self.method.partition(":")[0] not in DIRECT_METHODS:
            return None
        return plugins.parse(self.method, DIRECT_METHODS, "config.method")


def parse_stages(text: str) -> list[StageMethod]:
    """The stages of `config.method`.

    Raises:
      ValueError: no stage, an unknown role, or a direct method of two roles.
    """
    stages = []
    for part in filter(None, map(str.strip, text.split(";"))):
        method, _, names = map(str.strip, part.partition("@"))
        roles = tuple(n.strip() for n in names.split("+")) if names else CHANGED
        for role in roles:
            if role not in CHANGED:
                raise ValueError(
                    f"config.method={text!r}: {role!r} is no role that a method "
                    f"changes; use {' or '.join(CHANGED)} after @, or both with +."
                )
        stage = StageMethod(method, roles)
        if stage.direct and len(roles) > 1:
            raise ValueError(
                f"config.method={text!r}: {method!r} changes one role a stage; write "
                f"{method}@unlearn, or {method}@unlearn;{method}@update."
            )
        stages.append(stage)
    if not stages:
        raise ValueError("config.method is empty; use 'surgery', say.")
    return stages
