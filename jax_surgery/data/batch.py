# SPDX-License-Identifier: Apache-2.0
"""Packed rows: the one type that packing makes, and models and losses read.

Letters: B rows of the batch, U of them of the unlearn role and R of the retain role,
T tokens of a row, D model width, V vocabulary, S devices that rows are split over,
L layers, P the two parts of a layer (attention, MLP).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_surgery.data.role_rows import RoleRows
from jax_surgery.parallel import mesh as meshes

# An array, or what JAX puts in its place: a tracer, a shape or a sharding.
Leaf = Any

# Fields whose first axis is not the batch's rows: a role's rows, or no rows at all.
OF_ROLE = {
    "reference_hidden_RTD": "retain",
    "reference_hidden_UTD": "unlearn",
    "reference_logp_UT": "unlearn",
}
SHARED = (
    *("reference_head_SDV", "denominators", "retain_factor", "step_factor"),
    *("shift", "shift_factor"),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Packed rows, in the order of a `RoleRows`; a pytree. Absent fields are None.

    A value "of each token as it is predicted" stands at the token itself, so the
    position before it computes it (`models.documents.shifted`).

    Attributes:
      tokens_BT: int32 token ids; 0 on padding.
      segment_ids_BT: int32; documents of a row are 1, 2, ..., padding is 0. Where
        documents are packed in pairs, odd ones are the text to unlearn and the even
        one after each is its alternative.
      positions_BT: int32; place in the document, from 0; 0 on padding.
      begins_BT: int32; where documents of a row begin alike (with the system message of
        a chat, or the question of several answers), and the beginning stands once, as a
        segment of its own: the number of that segment, of its own tokens and of those of
        the documents after it that begin so and see it; else 0. Absent, no row has one.
      weights_BT: float32, of each token as it is predicted: 0 where it is not learned
        or the first of its document, else 1 (average="tokens") or 1 / learned tokens of
        its document (average="sequences": mean over tokens, then over sequences).
      token_index_BT: int64, on the host alone; place of the token in the role's
        documents laid end to end, -1 on padding. Keys a cache of the reference.
      position_weights_BT: float32; weight of each position in the retain term
        (`models.documents.position_weights`).
      moment_weights_BT: float32; weight of each token in the second moments of the
        matrices' inputs; absent, every real token weighs 1.
      token_weights_BT: float32, of each token as it is predicted, for the subspace
        method: above 0 the token is to be forgotten, below 0 it is to be known.
      target_log_odds_BT: float32, of each token as it is predicted, for the subspace
        method and for those of `base.TargetMethod`: nats at which the token is moved no
        further.
      drawn_BTK: int32, of each token as it is predicted: other tokens that are compared
        with it, for the methods of `base.TargetMethod`. Absent, none are.
      likelier_BTK: float32; by how much a model that never knew finds those likelier than
        the token, nats of log q.
      lower_BTD: compute dtype; what the frozen layers below the first that moves make of
        the tokens, which enters that layer. Absent, a forward pass runs them.
      reference_hidden_RTD: compute dtype; the frozen model's hidden states on the
        retain rows: final ones, or of the layer that the method reads.
      reference_hidden_UTD: compute dtype; its final hidden states on the unlearn rows.
      reference_logp_UT: float32, of each token as it is predicted: its log p by the
        frozen model, on the unlearn rows, nats.
      reference_head_SDV: compute dtype; the frozen model's output head, a copy for each
        device.
      denominators: {term: float32 scalar}, of the whole batch where this is a part.
      retain_factor: float32 scalar, factor on the weight of the retain term, which a
        controller sets between steps; absent, it is 1.
      step_factor: float32 scalar, factor on the optimizer's step, set in the same way.
      row_factor_B: float32; factor on the row's part in the loss, not in the metrics
        (`data.streams`); absent, it is 1.
      gates_BLP: float32; factor on what each part of each layer adds to the residual
        stream; absent, it is 1.
      shift: like the parameters' layers; what is added to them where the unlearn rows
        are read, times `shift_factor`, a float32 scalar. Absent, nothing is.
    """

    tokens_BT: Leaf
    segment_ids_BT: Leaf
    positions_BT: Leaf
    weights_BT: Leaf = None
    token_index_BT: Leaf = None
    position_weights_BT: Leaf = None
    moment_weights_BT: Leaf = None
    token_weights_BT: Leaf = None
    target_log_odds_BT: Leaf = None
    drawn_BTK: Leaf = None
    likelier_BTK: Leaf = None
    lower_BTD: Leaf = None
    reference_hidden_RTD: Leaf = None
    reference_hidden_UTD: Leaf = None
    reference_logp_UT: Leaf = None
    reference_head_SDV: Leaf = None
    denominators: Leaf = None
    retain_factor: Leaf = None
    step_factor: Leaf = None
    begins_BT: Leaf = None
    gates_BLP: Leaf = None
    row_factor_B: Leaf = None
    shift: Leaf = None
    shift_factor: Leaf = None

    def replace(self, **changes: Any) -> "Batch":
        """A copy with other values of some fields."""
        return dataclasses.replace(self, **changes)

    def __len__(self) -> int:
        return len(self.tokens_BT)

    def select(self, rows: np.ndarray | slice | int) -> "Batch":
        """Some rows, on the host, of a batch without the fields that roles have; one row
        is without the axis of rows."""
        return jax.tree.map(lambda array: array[rows], self)

    @property
    def real_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.segment_ids_BT > 0).sum())

    @property
    def text(self) -> "Batch":
        """The fields that a forward pass reads, alone."""
        of = (self.tokens_BT, self.segment_ids_BT, self.positions_BT)
        inside = {"lower_BTD": self.lower_BTD, "gates_BLP": self.gates_BLP}
        return Batch(*of, begins_BT=self.begins_BT, **inside)

    def for_devices(self) -> "Batch":
        """The batch without what stays on the host."""
        return self.replace(token_index_BT=None)

    def place(self, rows: int) -> "Batch":
        """The batch on the devices, its `rows` rows split over them.

        This process' rows alone are given (see `mesh.place_rows`); what stays on the
        host is left out.
        """
        return meshes.place_rows(self.for_devices(), rows)

    def take(self, rows: RoleRows, *roles: str) -> "Batch":
        """The rows of some roles, without what is a single role's or shared."""
        taken: dict[str, Any] = dict.fromkeys((*OF_ROLE, *SHARED))
        for name, array in self._present():
            if name not in taken:
                taken[name] = rows.take(array, *roles)
        return self.replace(**taken)

    def micro_batches(self, rows: RoleRows, parts: int) -> "Batch":
        """`parts` micro-batches along a new first axis, without what they share.

        Each lies over all devices and has its share of every role.
        """
        split: dict[str, Any] = dict.fromkeys(SHARED)
        for name, array in self._present():
            if name not in SHARED:
                of = [OF_ROLE[name]] if name in OF_ROLE else []
                split[name] = rows.in_parts(array, parts, *of)
        return self.replace(**split)

    @property
    def shared(self) -> dict[str, Any]:
        """The fields that all micro-batches of the batch share."""
        return {name: getattr(self, name) for name in SHARED}

    def _present(self):
        """(name, value) of each field that is not absent."""
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) is not None:
                yield field.name, value


def concatenate(parts: Sequence[Batch]) -> Batch:
    """Rows one after another, on the host."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def padding(rows: int, context: int, begins: bool = False) -> Batch:
    """Rows without text, as `Packer` makes rows with text.

    Args:
      begins: whether rows with text have a beginning that their documents share.
    """
    shape = (rows, context)
    return Batch(
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
        np.full(shape, -1, np.int64),
        begins_BT=np.zeros(shape, np.int32) if begins else None,
    )
