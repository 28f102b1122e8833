# SPDX-License-Identifier: Apache-2.0
"""Reads the texts of a role: JSONL, Hugging Face datasets, TFDS, the benchmark.

A role is a comma-separated list of sources:

    path.jsonl                    one JSON object a line
    hf:NAME[@CONFIG][:SPLIT]      a Hugging Face dataset, or a saved directory
    tfds:NAME[:SPLIT]             a TFDS dataset (SPLIT is "train" where left out)
    embedded:NAME                 a set of the embedded benchmark

A record has one of four forms; only what is said is learned:

    {"text": ...}                       all of it
    {"prompt": ..., "answer": ...}      the answer, which follows the prompt as it is
    {"question": ..., "answer": ...}    the answer; rendered "Question: ...\\nAnswer: ..."
    {"messages": [{"role", "content"}]} what the assistant says, in the tokenizer's
                                        chat template

An `id` may stand beside them; any other field is an error.
"""

import dataclasses
import difflib
import json
import unicodedata
from collections.abc import Iterable
from typing import Any

from etils import epath

FORMS = (("text",), ("prompt", "answer"), ("question", "answer"), ("messages",))
QUESTION_PROMPT = "Question: {question}\nAnswer:"
MAX_ERRORS_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Record:
    """One text to learn from.

    Attributes:
      prompt: read but not learned ("" for a plain text).
      answer: learned (a plain text is all answer).
      messages: a conversation instead of prompt and answer, or ().
      origin: where it stands, e.g. "facts.jsonl:12".
    """

    prompt: str
    answer: str
    messages: tuple[tuple[str, str], ...]
    origin: str

    @property
    def text(self) -> str:
        """All that the record says."""
        if self.messages:
            return "\n".join(content for _, content in self.messages)
        return self.prompt + self.answer


def normalised(text: str) -> str:
    """The text as compared for overlap: NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def _form(row: dict[str, Any], where: str) -> tuple[str, ...]:
    fields = set(row) - {"id"}
    for form in FORMS:
        if fields == set(form):
            return form
    known = sorted({name for form in FORMS for name in form} | {"id"})
    unknown = sorted(fields - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{where}: unknown field {unknown[0]!r}{hint}")
    raise ValueError(
        f"{where}: fields {', '.join(sorted(fields)) or 'none'} make no record; use "
        "text | prompt and answer | question and answer | messages"
    )


def _messages(value: Any, where: str) -> tuple[tuple[str, str], ...]:
    well_formed = isinstance(value, list) and all(
        isinstance(m, dict)
        and set(m) == {"role", "content"}
        and all(isinstance(v, str) for v in m.values())
        for m in value
    )
    if not well_formed:
        raise ValueError(
            f"{where}: messages must be a list of objects with the strings role and "
            "content"
        )
    turns = tuple((m["role"], m["content"]) for m in value)
    roles = {role for role, _ in turns}
    if roles - {"system", "user", "assistant"}:
        raise ValueError(
            f"{where}: message roles are system, user and assistant; got "
            f"{', '.join(sorted(roles))}"
        )
    if not any(role == "assistant" and content.strip() for role, content in turns):
        raise ValueError(f"{where}: no assistant turn, so nothing to learn")
    return turns


def parse_record(row: Any, where: str) -> Record:
    """One row as a record.

    Raises:
      ValueError: begins with `where` and says what is wrong.
    """
    if not isinstance(row, dict):
        raise ValueError(
            f"{where}: a record is a JSON object, got {type(row).__name__}"
        )
    form = _form(row, where)
    if form == ("messages",):
        return Record("", "", _messages(row["messages"], where), where)
    for name in form:
        if not isinstance(row[name], str):
            raise ValueError(
                f"{where}: {name} must be a string, got {type(row[name]).__name__}"
            )
        if not row[name].strip():
            raise ValueError(f"{where}: {name} is empty")
    if form == ("text",):
        return Record("", row["text"], (), where)
    if form == ("prompt", "answer"):
        return Record(row["prompt"], row["answer"], (), where)
    prompt = QUESTION_PROMPT.format(question=row["question"].strip())
    return Record(prompt, " " + row["answer"].strip(), (), where)


def _read_jsonl(path: str) -> Iterable[tuple[str, Any]]:
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(
            f"data file {path!r} does not exist; a source is a path.jsonl, hf:NAME, "
            "tfds:NAME or embedded:NAME."
        )
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            yield where, ValueError(f"{where}: not valid JSON ({error})")


def _read_hf(name: str) -> Iterable[tuple[str, Any]]:
    import datasets

    if epath.Path(name).is_dir():
        loaded = datasets.load_from_disk(name)
        split = None
    else:
        path, _, split = name.partition(":")
        path, _, config = path.partition("@")
        if epath.Path(path).is_dir():
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, config or None)
    if isinstance(loaded, datasets.DatasetDict):
        if not split and len(loaded) == 1:
            split = next(iter(loaded))
        if split not in loaded:
            raise ValueError(
                f"hf:{name} has the splits {', '.join(loaded)}; name one as "
                "hf:NAME:SPLIT."
            )
        loaded = loaded[split]
    for number, row in enumerate(loaded, start=1):
        # Arrow gives every column to every row: a missing field comes as None.
        yield f"hf:{name}:{number}", {k: v for k, v in row.items() if v is not None}


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):  # TFDS gives a sequence of objects as lists by name
        names = list(value)
        columns = [[_decoded(v) for v in value[n]] for n in names]
        return [
            dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)
        ]
    return value


def _read_tfds(name: str) -> Iterable[tuple[str, Any]]:
    import tensorflow_datasets as tfds

    dataset, _, split = name.partition(":")
    source = tfds.data_source(
        dataset,
        split=split or "train",
        builder_kwargs={"file_format": "array_record"},
    )
    for number in range(len(source)):
        row = {key: _decoded(value) for key, value in source[number].items()}
        yield f"tfds:{name}:{number + 1}", row


def _read_embedded(name: str) -> Iterable[tuple[str, Any]]:
    from jax_surgery.data import benchmark

    for number, row in enumerate(benchmark.load(name), start=1):
        yield f"embedded:{name}:{number}", row


READERS = {"hf": _read_hf, "tfds": _read_tfds, "embedded": _read_embedded}


def read_source(source: str) -> list[Record]:
    """The records of one source.

    Raises:
      FileNotFoundError: no such file.
      ValueError: malformed rows (the first few by file and line, and their number),
        or no records.
    """
    kind, colon, name = source.partition(":")
    if colon and kind in READERS:
        rows = READERS[kind](name)
    elif source.endswith((".jsonl", ".json")):
        rows = _read_jsonl(source)
    else:
        raise ValueError(
            f"data source {source!r} is not understood; use a path ending in .jsonl, "
            "hf:NAME[@CONFIG][:SPLIT], tfds:NAME[:SPLIT] or embedded:NAME."
        )
    records, errors = [], []
    for where, row in rows:
        try:
            if isinstance(row, ValueError):
                raise row
            records.append(parse_record(row, where))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        shown = "\n  ".join(errors[:MAX_ERRORS_SHOWN])
        more = len(errors) - MAX_ERRORS_SHOWN
        rest = f"\n  and {more} more" if more > 0 else ""
        raise ValueError(f"{len(errors)} bad rows in {source}:\n  {shown}{rest}")
    if not records:
        raise ValueError(f"data source {source!r} has no records.")
    return records


def read_role(sources: str, role: str) -> list[Record]:
    """All records of a role's comma-separated sources.

    Raises:
      ValueError: as `read_source`, or no source given.
    """
    names = [name.strip() for name in sources.split(",") if name.strip()]
    if not names:
        raise ValueError(
            f"config.data.{role} is empty; give it sources, e.g. "
            f"--config.data.{role}=texts.jsonl, or its rows 0 to leave the role out."
        )
    return [record for name in names for record in read_source(name)]


def check_overlap(unlearn: list[Record], retain: list[Record]) -> None:
    """Refuses a text that is to be forgotten and kept at once.

    Raises:
      ValueError: names the first few pairs.
    """
    kept = {normalised(record.text): record.origin for record in retain}
    both = [
        f"{record.origin} = {kept[normalised(record.text)]}"
        for record in unlearn
        if normalised(record.text) in kept
    ]
    if both:
        raise ValueError(
            f"{len(both)} texts are in both unlearn and retain: "
            f"{'; '.join(both[:MAX_ERRORS_SHOWN])}. Take them out of one of the two."
        )
