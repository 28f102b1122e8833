# SPDX-License-Identifier: Apache-2.0
"""What a run leaves: results.json, the report page, and the table on the screen."""

import json
from typing import Any

import numpy as np
from etils import epath

from jax_surgery.data.questions import Question
from jax_surgery.models.generate import greedy_generate
from jax_surgery.parallel import distributed
from jax_surgery.report import page, table
from jax_surgery.train.metrics_file import read_metrics

EXAMPLES_A_GROUP = 4
EXAMPLE_TOKENS = 8
PROMPT_CHARACTERS = 160  # of a role's text shown as a prompt


def _complete(params: Any, patient: Any, prompts: list[str], tokens: int) -> list[str]:
    """Greedy continuations of prompts, each of `tokens` at most.

    Args:
      patient: has the model's config and tokenizer.
    """
    tokenizer = patient.tokenizer
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = [
        bos + tokenizer(prompt, add_special_tokens=False)["input_ids"]
        for prompt in prompts
    ]
    answers = greedy_generate(
        params, patient.config, encoded, tokens, batch_rows=len(encoded)
    )
    return [tokenizer.decode(ids).strip() for ids in answers]


class Examples:
    """Greedy answers before and after.

    Made before the run, which may give the parameters of the start up.
    """

    def __init__(
        self,
        patient: Any,
        came: Any,
        about: list[str],
        prompts: list[str],
        references: list[str],
        tokens: int,
        *,
        sentences: bool = False,
    ):
        """Asks the model as it came.

        Args:
          patient: has the model's config and tokenizer.
          came: its parameters.
          about, prompts, references: what each prompt is of, the prompt, what is right.
          tokens: of an answer, at most.
          sentences: whether an answer ends with its first sentence.
        """
        self._patient, self._about, self._prompts = patient, about, prompts
        self._references, self._tokens = references, tokens
        self._sentences = sentences
        self._before = self._said(came)

    def _said(self, params: Any) -> list[str]:
        said = _complete(params, self._patient, self._prompts, self._tokens)
        return [text.split(".")[0] for text in said] if self._sentences else said

    def after(self, params: Any) -> list[page.Example]:
        """The answers before, beside those of these parameters."""
        columns = (
            self._about,
            self._prompts,
            self._references,
            self._before,
            self._said(params),
        )
        return [
            page.Example(about=a, prompt=p, reference=r, before=x, after=y)
            for a, p, r, x, y in zip(*columns, strict=True)
        ]


def examples_of(patient: Any, questions: tuple[Question, ...]) -> Examples:
    """Answers to questions, some of each group, or to the starts of the roles' texts."""
    if not questions:
        return Examples(patient, patient.params, *_text_prompts(patient))
    rng = np.random.default_rng(0)
    chosen = []
    for group in dict.fromkeys(q.group for q in questions):
        members = [q for q in questions if q.group == group]
        picks = rng.permutation(len(members))[:EXAMPLES_A_GROUP]
        chosen += [members[i] for i in picks]
    return Examples(
        patient,
        patient.params,
        [q.group for q in chosen],
        [q.prompt for q in chosen],
        [q.options[q.answer].strip() for q in chosen],
        EXAMPLE_TOKENS,
        sentences=True,  # an option is part of one
    )


def _text_prompts(patient: Any) -> tuple[list[str], list[str], list[str], int]:
    """Documents cut where learning begins, or in the middle where all is learned."""
    about, prompts, references = [], [], []
    decode = patient.tokenizer.decode
    for role, packer in patient.packers.items():
        for document in packer.documents[:EXAMPLES_A_GROUP]:
            first = int(np.argmax(document.learned[1:])) + 1
            cut = first if first > 2 else max(1, len(document.tokens) // 2)
            about.append(role)
            start = decode(document.tokens[:cut], skip_special_tokens=True)
            prompts.append(start[-PROMPT_CHARACTERS:])
            rest = decode(document.tokens[cut:], skip_special_tokens=True)
            references.append(rest.strip()[:PROMPT_CHARACTERS])
    return about, prompts, references, 4 * EXAMPLE_TOKENS


def write(
    directory: str,
    results: dict[str, Any],
    *,
    title: str,
    rows: list[table.Row],
    intervals: str,
    settings: dict[str, Any],
    curve: list[dict[str, float]],
    examples: list[page.Example],
) -> None:
    """Writes results.json and report/index.html, and prints the table; of many
    processes one does.

    Args:
      directory: of the run; has metrics.jsonl.
      results: what results.json holds, `cost` among it.
      title: of the page.
      rows: of the before/after table.
      intervals: how theirs were found, see `page.Page`.
      settings: the surgery's.
      curve: accuracies by step, or [].
      examples: answers before and after.
    """
    if not distributed.is_lead():
        return
    folder = epath.Path(directory)
    everything = results | {"settings": settings, "versions": page.versions()}
    (folder / "results.json").write_text(json.dumps(everything, indent=2) + "\n")
    html = page.render(
        page.Page(
            title=title,
            subtitle=f"model {settings['model']}, {settings['steps']} steps, "
            f"seed {settings['seed']}",
            rows=rows,
            intervals=intervals,
            chances=table.chances_of(results["after"]),
            metrics=read_metrics(folder / "metrics.jsonl"),
            curve=curve,
            examples=examples,
            cost=results["cost"],
            settings=settings,
        )
    )
    report = folder / "report"
    report.mkdir(parents=True, exist_ok=True)
    (report / "index.html").write_text(html)
    print("\n" + table.as_text(rows))
    print(table.cost_text(results["cost"]))
    print(f"model: {folder / 'model'}\nreport: {report / 'index.html'}")
