# SPDX-License-Identifier: Apache-2.0
"""KnowEdit (Zhang et al. 2024, arXiv 2401.01286) from one of its public files.

A row has `prompt` (or `text`), `target_new` (or `labels`), perhaps `ground_truth`,
`rephrase_prompt`, `portability` and `locality`; each of the last two has kinds of prompts,
either a list of {`prompt`, `ground_truth`} or such an object of two lists. Of an answer
with several forms the first counts.

Edit success and portability are teacher-forced token accuracy. Locality is the share of
tokens that stay as they were before the edit, so that it needs the model before; beside it
stands the token accuracy of the right answers.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from jax_surgery.benchmarks.editing import Asked, Editing, Request
from jax_surgery.data.probes import Probe


@dataclasses.dataclass(frozen=True)
class KnowEdit(Editing):
    """Facts to insert, to modify or to erase."""

    NAME: ClassVar[str] = "knowedit"
    FORM: ClassVar[str] = (
        "prompt and target_new, and perhaps ground_truth, rephrase_prompt, portability "
        "and locality"
    )

    def parse(self, row: dict[str, Any], where: str) -> Request:
        """A row of any of the files."""
        prompt = row["prompt"] if "prompt" in row else row["text"]
        new = _first(row["target_new"] if "target_new" in row else row["labels"])
        if not new.strip():
            raise ValueError("the new answer is empty.")
        old = _first(row.get("ground_truth") or "")
        if old.strip() == new.strip():
            old = ""  # nothing is replaced
        other = row.get("rephrase_prompt") or row.get("rephrase") or []
        others = [other] if isinstance(other, str) else other
        return Request(
            where,
            Asked(prompt, new),
            old,
            paraphrases=tuple(Asked(one, new) for one in others),
            portability=tuple(_kinds(row.get("portability") or {})),
            locality=tuple(_kinds(row.get("locality") or {})),
        )

    def probes(self, context: int) -> tuple[Probe, ...]:
        """Old answers, edit success, paraphrase, portability and locality, of what the
        file has."""
        edited = self.requests()[: self.edits]
        old = [(r, r.before) for r in edited if r.before]
        of = lambda get: [(r, one) for r in edited for one in get(r)]
        beside = {"comparisons": ("unchanged_tokens",)}
        planned: tuple[tuple[str, list, Any, dict], ...] = (
            ("old", old, "unlearn", {}),
            ("edit_success", of(lambda r: (r.fact,)), "update", {}),
            ("paraphrase", of(lambda r: r.paraphrases), "update", {}),
            ("portability", of(lambda r: r.portability), "update", {}),
            ("locality", of(lambda r: r.locality), "retain", beside),
        )
        return tuple(
            self.probe(name, asked, context, role, **more)
            for name, asked, role, more in planned
            if asked
        )


def _first(answer: Any) -> str:
    """An answer, or the first of several forms of it; "" where there is none."""
    while isinstance(answer, list):
        answer = answer[0] if answer else ""
    if not isinstance(answer, str):
        raise TypeError(f"the answer {answer!r} is no text")
    return answer


def _kinds(of_kind: dict[str, Any]) -> Iterator[Asked]:
    """The prompts of each kind that have an answer."""
    for kind, found in of_kind.items():
        if isinstance(found, dict):
            pairs = list(zip(found["prompt"], found["ground_truth"], strict=True))
        else:
            pairs = [(one["prompt"], one["ground_truth"]) for one in found or []]
        for prompt, answer in pairs:
            if _first(answer).strip():
                yield Asked(prompt, _first(answer), kind)
