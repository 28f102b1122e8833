# SPDX-License-Identifier: Apache-2.0
"""Methods: how weights change. One file each; this table names them.

`config.method` names a member, with options: "surgery", "npo", "npo:beta=0.2"; or one
from outside the package: "my_package.my_file.MyMethod:rate=2".
"""

from jax_surgery import plugins
from jax_surgery.methods.altpo import AltPO
from jax_surgery.methods.ascent import Surgery
from jax_surgery.methods.base import (
    HiddenMethod,
    LogitMethod,
    Method,
    PairMethod,
    SequenceMethod,
    TokenMethod,
)
from jax_surgery.methods.ceu import CEU
from jax_surgery.methods.dpo import DPO
from jax_surgery.methods.ga import GA
from jax_surgery.methods.grad_diff import GradDiff
from jax_surgery.methods.idkpo import IdkPO
from jax_surgery.methods.ihl import IHL
from jax_surgery.methods.kl_min import KLMin
from jax_surgery.methods.loku import LoKU
from jax_surgery.methods.never_knew import NeverKnew
from jax_surgery.methods.npo import NPO
from jax_surgery.methods.npo_sam import NPOSAM
from jax_surgery.methods.pdu import PDU
from jax_surgery.methods.rmu import RMU
from jax_surgery.methods.satimp import SatImp
from jax_surgery.methods.simnpo import SimNPO
from jax_surgery.methods.subspace.method import Subspace, UnlearnPaper
from jax_surgery.methods.task_vector import TaskVector
from jax_surgery.methods.undial import Undial
from jax_surgery.methods.wga import WGA

METHODS: dict[str, type[Method]] = {
    "surgery": Surgery,
    "never_knew": NeverKnew,
    "ga": GA,
    "grad_diff": GradDiff,
    "kl_min": KLMin,
    "npo": NPO,
    "npo_sam": NPOSAM,
    "simnpo": SimNPO,
    "dpo": DPO,
    "idkpo": IdkPO,
    "altpo": AltPO,
    "rmu": RMU,
    "undial": Undial,
    "ceu": CEU,
    "wga": WGA,
    "satimp": SatImp,
    "pdu": PDU,
    "ihl": IHL,
    "loku": LoKU,
    "task_vector": TaskVector,
    "subspace": Subspace,
    "unlearn_paper": UnlearnPaper,
}
PATH = "config.method"
# A method extends one of these, whose terms are computed.
LEVELS = (
    TokenMethod,
    LogitMethod,
    SequenceMethod,
    PairMethod,
    HiddenMethod,
    Subspace,
)


def name_of(method: Method) -> str:
    """The name of a method in the table, or of its class where it is not in it."""
    kind = type(method)
    return next((n for n, m in METHODS.items() if m is kind), kind.__name__)


def parse(text: str) -> Method:
    """The method that a config names.

    Args:
      text: see the module's docstring.

    Raises:
      ValueError: an unknown method or option, or a value of the wrong type or range.
    """
    found = plugins.parse(text, METHODS, PATH)
    if not isinstance(found, LEVELS):
        raise ValueError(  # noqa: TRY004, of a config, which users read in one line
            f"{PATH}={text!r} is no method: extend TokenMethod, LogitMethod, "
            "SequenceMethod, PairMethod or HiddenMethod of jax_surgery.methods.base."
        )
    return found
