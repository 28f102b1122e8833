# SPDX-License-Identifier: Apache-2.0
"""The text of a run's roles, packed with a model's tokenizer."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from jax_surgery.data import roles, template_marks
from jax_surgery.data.background import Background, select
from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Packer
from jax_surgery.data.pairs import Alternatives, encode_pairs
from jax_surgery.data.roles import RoleData, RoleRecords
from jax_surgery.data.tokens import encode


@dataclasses.dataclass(frozen=True, eq=False)
class RoleTexts:
    """Packed text.

    Attributes:
      packers: of each role that has rows in a batch.
      retained: all text to be retained, which statistics read and never train on; None
        where there is none.
    """

    packers: dict[str, Packer]
    retained: Packer | None

    @property
    def learned_tokens(self) -> int:
        """Tokens of the update role and of all retained text, of which each text counts
        once, however often it is read."""
        update = self.packers.get("update")
        texts = [text.documents for text in (update, self.retained) if text]
        once = {d.tokens.tobytes(): len(d.tokens) for own in texts for d in own}
        return sum(once.values())


def pack(
    read: RoleRecords,
    data: RoleData,
    tokenizer: Any,
    pairs: Alternatives | None = None,
    seed: int = 0,
) -> RoleTexts:
    """Tokenises and packs; of the unlearn text only what surprises the retained text.

    Args:
      pairs: where given, the unlearn role is packed in pairs with alternatives from
        there (see `pairs.encode_pairs`).
      seed: of the refusals that are drawn.

    Raises:
      ValueError: see `tokens.encode`, and names the role; or roles learn the same.
    """

    if template_marks.has_template(tokenizer):
        roles.check_roles(read, tokenizer)

    def packed(role: str, records: list[Record]) -> Packer:
        with _named(role):
            documents = encode(records, tokenizer, data.context)
            return Packer(documents, data.context, data.average)

    retained = packed("retain", read.retained) if read.retained else None
    packers = {}
    for role, records in read.by_role.items():
        if role == "unlearn":
            of = (records, data, tokenizer, retained)
            packers[role] = _unlearned(*of, pairs, seed)
        elif retained and records is read.retained:  # tokenised once
            packers[role] = retained
        else:
            packers[role] = packed(role, records)
    return RoleTexts(packers, retained)


def _unlearned(
    records: list[Record],
    data: RoleData,
    tokenizer: Any,
    retained: Packer | None,
    pairs: Alternatives | None,
    seed: int,
) -> Packer:
    with _named("unlearn"):
        if pairs:
            if data.surprise:
                raise ValueError(
                    f"config.data.surprise={data.surprise:g} chooses tokens of a text, "
                    "but the method compares whole answers; use config.data.surprise=0."
                )
            documents = encode_pairs(records, tokenizer, data.context, seed, pairs)
            return Packer(documents, data.context, data.average, group=2)
        documents = encode(records, tokenizer, data.context)
        if data.surprise:
            assert retained, "`roles.read` refuses data.surprise without retain text"
            background = Background(retained.documents, len(tokenizer))
            documents = select(documents, background, data.surprise)
        return Packer(documents, data.context, data.average)


@contextlib.contextmanager
def _named(role: str) -> Iterator[None]:
    """Errors within say of which role they are."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"config.data.{role}: {error}") from error
