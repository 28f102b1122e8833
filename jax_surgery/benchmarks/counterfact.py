# SPDX-License-Identifier: Apache-2.0
"""CounterFact (Meng et al. 2022, arXiv 2202.05262) from one of its two public files.

The authors' `counterfact.json`: `requested_rewrite` {`prompt` with {} for the `subject`,
`target_new` and `target_true` {`str`}}, `paraphrase_prompts`, `neighborhood_prompts`.
EasyEdit's `counterfact-edit.json`: `prompt`, `target_new`, `subject`, `ground_truth`,
`rephrase_prompt`, `locality_prompt`, `locality_ground_truth`.

Efficacy and paraphrase succeed where the new answer is likelier per token than the true
one, neighbourhood where the true one is; token accuracy stands beside it under its own
name.
"""

import dataclasses
from typing import Any, ClassVar

from jax_surgery.benchmarks.editing import UNKNOWN, Asked, Editing, Request
from jax_surgery.data.probes import Probe

METRICS = ("likelihood_success", "likelihood_magnitude", "token_accuracy")


@dataclasses.dataclass(frozen=True)
class CounterFact(Editing):
    """Counterfactual statements about entities."""

    NAME: ClassVar[str] = "counterfact"
    FORM: ClassVar[str] = (
        "requested_rewrite, paraphrase_prompts and neighborhood_prompts (the authors' "
        "file), or prompt, target_new, ground_truth, rephrase_prompt, locality_prompt "
        "and locality_ground_truth (EasyEdit's)"
    )

    def parse(self, row: dict[str, Any], where: str) -> Request:
        """A row of either file."""
        if "requested_rewrite" in row:
            asked = row["requested_rewrite"]
            new, old = asked["target_new"]["str"], asked["target_true"]["str"]
            prompt = asked["prompt"].format(asked["subject"])
            others, near = row["paraphrase_prompts"], row["neighborhood_prompts"]
            around = tuple(Asked(one, old) for one in near)
        else:
            prompt, new, old = row["prompt"], row["target_new"], row["ground_truth"]
            others = [row["rephrase_prompt"]]
            around = (Asked(row["locality_prompt"], row["locality_ground_truth"]),)
        if old.strip() in UNKNOWN:
            raise ValueError("the true answer is missing, which likelihoods need.")
        if new.strip() == old.strip():
            raise ValueError(f"the new answer {new!r} is the true one.")
        for one in around:
            if one.answer.strip() == new.strip():
                raise ValueError(f"{new!r} is right after {one.prompt!r} as well.")
        paraphrases = tuple(Asked(one, new) for one in others)
        return Request(
            where, Asked(prompt, new), old, paraphrases=paraphrases, locality=around
        )

    def probes(self, context: int) -> tuple[Probe, ...]:
        """Old facts, efficacy, paraphrase and neighbourhood."""
        edited = self.requests()[: self.edits]
        old = [(r, r.before) for r in edited if r.before]
        efficacy = [(r, r.fact) for r in edited]
        paraphrase = [(r, one) for r in edited for one in r.paraphrases]
        near = [(r, one) for r in edited for one in r.locality]
        true_of = lambda asked: [request.old for request, _ in asked]
        new_of = lambda asked: [request.fact.answer for request, _ in asked]
        make = lambda name, asked, role, beside, **more: self.probe(
            name, asked, context, role, metrics=METRICS, beside=beside, **more
        )
        return (
            self.probe("old", old, context, "unlearn"),
            make("efficacy", efficacy, "update", true_of(efficacy)),
            make("paraphrase", paraphrase, "update", true_of(paraphrase)),
            make(
                "neighbourhood",
                near,
                "retain",
                new_of(near),
                comparisons=("unchanged_tokens",),
            ),
        )
