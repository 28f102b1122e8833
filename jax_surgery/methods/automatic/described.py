# SPDX-License-Identifier: Apache-2.0
"""Paraphrases and contextual descriptions of records, which the model writes by itself.

As StableKE (arXiv 2402.13048) has them of a stronger model, for text to update and to
retain. The model is asked in its chat template, and what it writes counts where it holds the
answer of the record (of a text all of its names), and not what is to be unlearned of the
same question. A paraphrase is another answer to the question of the record, or another text;
a description is a text about its subject.
"""

import dataclasses
import json
from collections.abc import Mapping

from etils import epath

from jax_surgery.data import prompts
from jax_surgery.data.forms import Record, normalised, parse_record
from jax_surgery.data.roles import RoleRecords
from jax_surgery.data.template_marks import apply
from jax_surgery.methods.automatic import facts
from jax_surgery.methods.automatic.writer import Writer
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed, progress
from jax_surgery.storage import files
from jax_surgery.train import checksums, identity

FILE = "enriched.jsonl"
REQUESTS = {
    "paraphrase": "Say this in other words, in one sentence. Keep every name and number, and "
    "add nothing.\n\n{fact}",
    "description": "Write two or three sentences, as an encyclopedia has them, about the "
    "subject of this statement. They must say what it says and not contradict it.\n\n{fact}",
}
TOKENS = {"paraphrase": 48, "description": 96}
TEMPERATURE = 0.8


def enrich(
    model: Model,
    read: RoleRecords,
    counts: Mapping[str, int],
    seed: int,
    directory: str,
) -> RoleRecords:
    """The records with what the model writes about them.

    Every process must call. What a run has written it reads back.

    Args:
      counts: of each role, how many paraphrases and as many descriptions of a record the
        model is asked for.
      seed: of all draws.
      directory: of the run, where enriched.jsonl lies.

    Raises:
      ValueError: the model has no chat template.
    """
    if not prompts.asks_as_chat(model.tokenizer, "auto"):
        raise ValueError(
            "config.data.enrich_update and enrich_retain ask the model in its chat template, "
            "and its tokenizer has none of its own; use 0, or write paraphrases and "
            "descriptions beside the records of a file."
        )
    of = {role: identity.of_records(rows) for role, rows in read.by_role.items()}
    key = checksums.of_value([identity.of_model(model), of, dict(counts), seed])
    file = epath.Path(directory) / FILE
    rows = _read(file, key)
    if not distributed.all_agree(rows is not None):
        with progress.phase("writing paraphrases and descriptions"):
            rows = _written(Writer(model, seed), read, counts)
        head = {"of": key, "sha256": checksums.of_value(rows)}
        lines = [json.dumps(row, ensure_ascii=False) for row in (head, *rows)]
        distributed.on_lead(lambda: files.write_text(file, "\n".join(lines) + "\n"))
    assert rows is not None
    by_role = dict(read.by_role)
    for role in counts:
        own = [row for row in rows if row["role"] == role]
        more = [parse_record(_fields(row), row["origin"]) for row in own]
        by_role[role] = [*by_role.get(role, []), *more]
        asked = 2 * counts[role] * len(read.by_role.get(role, []))
        print(
            f"{len(more)} of {asked} texts that were asked of the model are read to {role}"
        )
    # Where it is the text of the role it stays so (see `role_texts.pack`).
    same = read.retained is read.by_role.get("retain")
    retained = by_role["retain"] if same else read.retained
    return dataclasses.replace(read, by_role=by_role, retained=retained)


def _fields(row: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in row.items() if k in ("question", "answer", "text")}


def _read(file: epath.Path, key: str) -> list[dict[str, str]] | None:
    """What was written for the same; None where nothing is, or not all of it as it was."""
    if not file.exists():
        return None
    try:
        head, *rows = [
            json.loads(line) for line in file.read_text().split("\n") if line
        ]
        if head["of"] == key and head["sha256"] == checksums.of_value(rows):
            return rows
    except (ValueError, TypeError, KeyError):
        pass
    print(f"{file} is of another run or damaged, and is written anew.")
    return None


def _written(
    writer: Writer, read: RoleRecords, counts: Mapping[str, int]
) -> list[dict[str, str]]:
    gone = {
        normalised(record.question): record.said
        for record in read.by_role.get("unlearn", [])
        if record.question
    }
    found = []
    for role, count in counts.items():
        records = read.by_role.get(role, [])
        for kind, request in REQUESTS.items() if count and records else ():
            asked = [_asked(writer, request.format(fact=fact_of(r))) for r in records]
            how = {"samples": count, "temperature": TEMPERATURE}
            said = writer.sampled(asked, TOKENS[kind], f"{role} {kind}", **how)
            for place, written in enumerate(said):
                record = records[place // count]
                old = (
                    gone.get(normalised(record.question), "") if record.question else ""
                )
                text = written.text.strip()
                if written.ended and holds(record, text, old):
                    found.append(_row(role, kind, record, text, place % count + 1))
    return found


def _asked(writer: Writer, request: str) -> list[int]:
    text = apply(writer.tokenizer, [{"role": "user", "content": request}], prompt=True)
    return writer.tokenizer(text, add_special_tokens=False)["input_ids"]


def _row(
    role: str, kind: str, record: Record, text: str, number: int
) -> dict[str, str]:
    about = {"role": role, "kind": kind, "origin": f"{record.origin}, {kind} {number}"}
    if kind == "paraphrase" and record.question:
        return about | {"question": record.question, "answer": text}
    return about | {"text": text}


def fact_of(record: Record) -> str:
    """What a record states, as it is shown to the model."""
    if record.question:
        return f"{record.question} {record.said.strip()}"
    return record.text.strip()


def holds(record: Record, text: str, gone: str = "") -> bool:
    """Whether a text may state what a record does.

    Args:
      gone: the answer to the same question that is to be unlearned.
    """
    said, plain = normalised(record.said).rstrip("."), normalised(text)
    if gone and normalised(gone).rstrip(".") in plain:
        return False
    if record.question or record.prompt:
        return bool(said) and said in plain and plain != said
    names = {word.key for word in facts.words(record.text) if word.name}
    return names <= set(facts.keys(text)) and plain != normalised(record.text)
