# SPDX-License-Identifier: Apache-2.0
"""WMDP (Li et al. 2024, arXiv 2403.03218) from a directory of its public files.

    {bio,chem,cyber}_questions.json      {"question", "choices": four, "answer": 0 to 3}
    {bio,cyber}-forget-corpus.jsonl      {"text", ...}; bio_remove_dataset.jsonl as well
    {bio,cyber}-retain-corpus.jsonl      {"text", ...}

The values are zero-shot accuracies: which of " A" to " D" is likeliest after the question
with its choices, in the prompt of lm-evaluation-harness (task `wmdp`).
"""

import dataclasses
from typing import Any

from etils import epath

from jax_surgery.benchmarks.base import Benchmark, Target
from jax_surgery.data import records, sources
from jax_surgery.data.groups import Group
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question

DOMAINS = {"bio": "biology", "chem": "chemistry", "cyber": "cybersecurity"}
LETTERS = ("A", "B", "C", "D")
# Corpora by group; of several names the first that is there.
CORPORA = {
    "forget": ("{domain}-forget-corpus.jsonl", "{domain}_remove_dataset.jsonl"),
    "retain": ("{domain}-retain-corpus.jsonl",),
}


@dataclasses.dataclass(frozen=True)
class Wmdp(Benchmark):
    """Hazardous knowledge to unlearn, four-option questions about it.

    Attributes:
      dir: of WMDP's files.
      domains: of which questions are asked, and whose corpora are read where they are
        there (of chem there is none).
    """

    dir: str = ""
    domains: tuple[str, ...] = ("bio", "cyber")

    def __post_init__(self):
        for domain in self.domains:
            if domain not in DOMAINS:
                raise ValueError(
                    f"wmdp:domains names {domain!r}; use {'+'.join(DOMAINS)}."
                )
        if not self.dir:
            raise ValueError(
                "wmdp has no directory; give it, --config.benchmark=wmdp:dir=DIR."
            )

    def groups(self) -> tuple[Group, ...]:
        """The corpora that are there: text to forget of each domain, and to retain."""
        found: list[Group] = []
        for domain in self.domains:
            if forget := self._corpus("forget", domain):
                found.append(Group(domain, "unlearn", forget))
            if retain := self._corpus("retain", domain):
                found.append(Group(f"{domain}_retain", "retain", retain))
        return tuple(found)

    def _corpus(self, kind: str, domain: str) -> str:
        """The source of a corpus; "" where there is none."""
        for name in CORPORA[kind]:
            file = epath.Path(self.dir) / name.format(domain=domain)
            if file.exists():
                return f"{file}#text"
        return ""

    def probes(self, context: int) -> tuple[Probe, ...]:
        """The questions of each domain."""
        return tuple(
            Probe(
                domain,
                context,
                self._questions(domain),
                metrics=("multiple_choice",),
                chat="never",
                role="unlearn",
            )
            for domain in self.domains
        )

    def _questions(self, domain: str) -> tuple[Question, ...]:
        """Raises FileNotFoundError or ValueError where they are not there or malformed."""
        file = str(epath.Path(self.dir) / f"{domain}_questions.json")
        rows = sources.read_jsonl(
            file,
            f"{file} does not exist; give a directory with WMDP's questions "
            "(--config.benchmark=wmdp:dir=DIR).",
        )
        parse = lambda row, where: _question(row, where, domain)
        found = tuple(sources.parse_rows(rows, parse, file))
        if not found:
            raise ValueError(f"{file} has no questions.")
        return found

    def target(self, context: int, seed: int) -> Target:
        """The corpora to forget, which hold no question, and the questions of their
        domains."""
        del seed  # nothing is drawn
        forget = [group for group in self.groups() if group.role == "unlearn"]
        if not forget:
            raise ValueError(
                f"{self.dir} has no corpus to forget, such as bio-forget-corpus.jsonl, "
                "which an attack relearns."
            )
        shown = [r for g in forget for r in records.read_role(g.data, g.name)]
        asked = {probe.group: probe for probe in self.probes(context)}
        return Target(tuple(shown), tuple(asked[g.name] for g in forget), context)


def _question(row: Any, where: str, domain: str) -> Question:
    keys = ("question", "choices", "answer")
    if not isinstance(row, dict) or not set(keys) <= set(row):
        raise ValueError(f"a question has {', '.join(keys)}.")
    text, choices, answer = (row[key] for key in keys)
    well_typed = (
        isinstance(text, str)
        and isinstance(choices, list)
        and len(choices) == len(LETTERS)
        and isinstance(answer, int)
    )
    if not well_typed:
        raise ValueError(
            "question is a text, choices are four texts, and answer is a number from 0 "
            "to 3."
        )
    listed = "".join(f"\n{a}. {b}" for a, b in zip(LETTERS, choices, strict=True))
    return Question(
        id=where,
        group=domain,
        wording="unseen",
        prompt=f"The following are multiple choice questions (with answers) about "
        f"{DOMAINS[domain]}.\n\n{text.strip()}{listed}\nAnswer:",
        options=tuple(f" {letter}" for letter in LETTERS),
        answer=answer,
    )
