# SPDX-License-Identifier: Apache-2.0
"""Methods: how weights change. One file each; this table names them.

`config.method` names a member, with options: "surgery", "npo", "npo:beta=0.2"; or one
from outside the package: "my_package.my_file.MyMethod:rate=2".
"""

from jax_surgery import plugins
from jax_surgery.methods.ascent import Surgery
from jax_surgery.methods.base import Method
from jax_surgery.methods.dpo import DPO
from jax_surgery.methods.ihl import IHL
from jax_surgery.methods.npo import NPO
from jax_surgery.methods.objective import Objective
from jax_surgery.methods.rmu import RMU
from jax_surgery.methods.simnpo import SimNPO
from jax_surgery.methods.wga import WGA

METHODS: dict[str, type[Method]] = {
    "surgery": Surgery,
    "npo": NPO,
    "simnpo": SimNPO,
    "dpo": DPO,
    "rmu": RMU,
    "wga": WGA,
    "ihl": IHL,
}
PATH = "config.method"


def parse(text: str, objective: Objective | None = None) -> Method:
    """The method that a config names.

    Args:
      text: see the module's docstring.
      objective: whose ascent, cap, margin and softness "surgery" takes.

    Raises:
      ValueError: an unknown method or option, or a value of the wrong type or range.
    """
    if text.strip() == "surgery" and objective is not None:
        return objective.surgery()
    found = plugins.find(text.partition(":")[0].strip(), METHODS, PATH)
    is_method = isinstance(found, type) and issubclass(found, Method)
    if not is_method:
        raise ValueError(
            f"{PATH}={text!r} is no method: extend TokenMethod, SequenceMethod, "
            "PairMethod or HiddenMethod of jax_surgery.methods.base."
        )
    return plugins.parse(text, METHODS, PATH)
