# SPDX-License-Identifier: Apache-2.0
"""ZsRE as the editing literature asks it, from the public `zsre_mend_eval.json`.

A row has `subject`, `src` (the question), `answers`, `alt` (a counterfactual answer),
`rephrase`, `loc` ("nq question: ..." about something else) and `loc_ans`. All values are
of teacher-forced token accuracy.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from jax_surgery.benchmarks.editing import Asked, Editing, Request
from jax_surgery.data.probes import Probe


@dataclasses.dataclass(frozen=True)
class Zsre(Editing):
    """Questions whose answers are edited.

    Attributes:
      learned: the new answer: "alternative", the counterfactual one, as MEND and EasyEdit
        take it; or "right", as ROME and MEMIT do, of models that do not know it (nothing
        is unlearned then).
    """

    NAME: ClassVar[str] = "zsre"
    FORM: ClassVar[str] = "src, answers, alt, rephrase, loc and loc_ans"

    learned: Literal["alternative", "right"] = "alternative"

    @property
    def variant(self) -> str:
        """Which answer is learned."""
        return self.learned

    def parse(self, row: dict[str, Any], where: str) -> Request:
        """A row of `zsre_mend_eval.json`."""
        right = row["answers"][0]
        alternative = self.learned == "alternative"
        new, old = (row["alt"], right) if alternative else (right, "")
        if new.strip() == old.strip():
            raise ValueError(f"the new answer {new!r} is the right one.")
        # ROME puts the question mark that the file leaves out.
        near = Asked(row["loc"].rstrip().rstrip("?") + "?", row["loc_ans"])
        return Request(
            where,
            Asked(row["src"], new),
            old,
            paraphrases=(Asked(row["rephrase"], new),),
            locality=(near,),
        )

    def probes(self, context: int) -> tuple[Probe, ...]:
        """Old answers where they are known, efficacy, paraphrase and locality."""
        edited = self.requests()[: self.edits]
        old = [(r, r.before) for r in edited if r.before]
        make = lambda name, of, role, **more: self.probe(
            name, [(r, one) for r in edited for one in of(r)], context, role, **more
        )
        return (
            *([self.probe("old", old, context, "unlearn")] if old else []),
            make("efficacy", lambda r: (r.fact,), "update"),
            make("paraphrase", lambda r: r.paraphrases, "update"),
            make(
                "locality",
                lambda r: r.locality,
                "retain",
                comparisons=("unchanged_tokens",),
            ),
        )
