# SPDX-License-Identifier: Apache-2.0
"""What CounterFact, ZsRE and KnowEdit have in common: requests to edit a fact.

The first requests of a file are edited: their old answers are to be unlearned, the new
ones to be learned. The requests after them are left alone, and what they say is text to
retain. What is asked to see how far an edit reaches is trained on by neither.
"""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from jax_surgery.benchmarks.base import Benchmark
from jax_surgery.config import at_least
from jax_surgery.data import sources
from jax_surgery.data.forms import Record, normalised, parse_record
from jax_surgery.data.groups import Group, Role
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question

UNKNOWN = ("", "<|endoftext|>")  # old answers that files give where they know none


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt with its answer.

    Attributes:
      prompt: the answer follows it after a space.
      answer: the right one.
      kind: of prompt, e.g. "Subject_Aliasing"; prompts of a kind are averaged first.
    """

    prompt: str
    answer: str
    kind: str = ""

    @property
    def row(self) -> dict[str, str]:
        """As a line of a JSONL file."""
        return {"prompt": self.prompt.rstrip(), "answer": f" {self.answer.strip()}"}


@dataclasses.dataclass(frozen=True)
class Request:
    """A fact to be edited, and what is asked around it.

    Attributes:
      where: it stands.
      fact: the prompt with its new answer.
      old: the answer before; "" where it is not known.
      paraphrases: the same fact in other words.
      portability: what follows from the new fact.
      locality: what must stay as it is.
    """

    where: str
    fact: Asked
    old: str
    paraphrases: tuple[Asked, ...] = ()
    portability: tuple[Asked, ...] = ()
    locality: tuple[Asked, ...] = ()

    @property
    def before(self) -> Asked | None:
        """The prompt with its old answer."""
        known = self.old.strip() not in UNKNOWN
        return Asked(self.fact.prompt, self.old) if known else None


@dataclasses.dataclass(frozen=True)
class Editing(Benchmark, abc.ABC):
    """Facts to edit, from a file.

    Attributes:
      NAME: in `BENCHMARKS`.
      FORM: what a row must hold, for errors.
      file: the file of requests (.json or .jsonl), or `hf:NAME[@CONFIG][:SPLIT]`.
      edits: requests that are edited, the first.
      retained: requests after them whose facts are retained.
    """

    NAME: ClassVar[str]
    FORM: ClassVar[str]

    file: str = ""
    edits: int = 100
    retained: int = 100

    def __post_init__(self):
        at_least(1, self, f"config.benchmark={self.NAME}", "edits", "retained")

    @abc.abstractmethod
    def parse(self, row: dict[str, Any], where: str) -> Request:
        """A row of the file.

        Raises:
          ValueError, KeyError, TypeError, IndexError: it has another form.
        """

    @property
    def variant(self) -> str:
        """Further options of how rows are read, as `of_source` takes them."""
        return ""

    def requests(self) -> list[Request]:
        """What is edited, and then what is retained.

        Raises:
          FileNotFoundError: no such file.
          ValueError: malformed rows, the first few and how many, or too few of them.
        """
        if not self.file:
            raise ValueError(
                f"{self.NAME} has no file; give it, --config.benchmark="
                f"{self.NAME}:file=FILE."
            )
        read = sources.parse_rows(sources.rows_of(self.file), self._parsed, self.file)
        wanted = self.edits + self.retained
        if len(read) < wanted:
            raise ValueError(
                f"{self.file} has {len(read)} requests; {self.NAME}:edits={self.edits},"
                f"retained={self.retained} needs {wanted}, so lower one of the two."
            )
        return read[:wanted]

    def _parsed(self, row: Any, where: str) -> Request:
        if not isinstance(row, dict):
            raise ValueError(  # noqa: TRY004, of a file, whose bad rows are counted
                f"a {type(row).__name__} is no request, which has {self.FORM}."
            )
        try:
            request = self.parse(row, where)
            for one in _all_of(request):
                _record(one, where)  # raises where a text is empty
            return request
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            # parse_rows says where.
            said = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{said}; a request has {self.FORM}.") from None

    def groups(self) -> tuple[Group, ...]:
        """Old answers, where any are known, new ones, and what is retained."""
        edited = self.requests()[: self.edits]
        known = any(request.before for request in edited)
        roles: dict[str, Role] = {"old": "unlearn"} if known else {}
        roles |= {"new": "update", "retain": "retain"}
        values = (str(self.edits), str(self.retained), self.variant, self.file)
        return tuple(
            Group(name, role, ":".join((self.NAME, name, *values)))
            for name, role in roles.items()
        )

    def texts(self, group: str) -> Iterator[dict[str, str]]:
        """The rows of a group."""
        read = self.requests()
        edited, rest = read[: self.edits], read[self.edits :]
        if group == "new":
            yield from _unique(request.fact for request in edited)
        elif group == "old":
            yield from _unique(r.before for r in edited if r.before)
        else:
            asked = {_key(one) for request in edited for one in _all_of(request)}
            free = [
                one
                for request in rest
                for one in (*filter(None, (request.before,)), *request.locality)
                if _key(one) not in asked
            ]
            if not free:
                raise ValueError(
                    f"{self.file}: the {self.retained} requests after the first "
                    f"{self.edits} hold nothing that can be retained; raise "
                    f"{self.NAME}:retained."
                )
            yield from _unique(free)

    def probe(
        self,
        name: str,
        asked: Sequence[tuple[Request, Asked]],
        context: int,
        role: Role,
        *,
        metrics: tuple[str, ...] = ("token_accuracy",),
        comparisons: tuple[str, ...] = (),
        beside: Sequence[str] = (),
    ) -> Probe:
        """Prompts with right answers, each averaged within its request.

        Args:
          beside: of each prompt the wrong answer, where likelihoods are compared.
        """
        records = tuple(
            _record(one, f"{request.where} {name} {number}")
            for number, (request, one) in enumerate(asked)
        )
        pairs = zip(asked, records, beside, strict=True) if beside else ()
        questions = tuple(
            Question(
                record.origin,
                name,
                "unseen",
                record.prompt,
                (record.answer, f" {other.strip()}"),
                0,
            )
            for _, record, other in pairs
        )
        return Probe(
            name,
            context,
            questions,
            records,
            metrics=metrics,
            comparisons=comparisons,
            cases=tuple((request.where, one.kind) for request, one in asked),
            ends=False,
            chat="never",
            role=role,
        )


def _record(one: Asked, origin: str) -> Record:
    return parse_record(one.row, origin)


def _all_of(request: Request) -> Iterable[Asked]:
    """All that is asked around a request."""
    before = filter(None, (request.before,))
    around = (*request.paraphrases, *request.portability, *request.locality)
    return (request.fact, *before, *around)


def _key(one: Asked) -> str:
    return normalised(f"{one.prompt} {one.answer}")


def _unique(asked: Iterable[Asked]) -> Iterator[dict[str, str]]:
    found = {_key(one): one for one in asked}
    return (one.row for one in found.values())


def of_source(kind: type[Editing], name: str) -> Iterator[dict[str, str]]:
    """The rows of a source "GROUP:EDITS:RETAINED:VARIANT:FILE" (see `Editing.groups`).

    Raises:
      ValueError: it has another form; or see `Editing.requests`.
    """
    try:
        group, edits, retained, variant, file = name.split(":", 4)
        options = {"file": file, "edits": int(edits), "retained": int(retained)}
    except ValueError:
        raise ValueError(
            f"data source {kind.NAME}:{name} is not understood; write "
            f"{kind.NAME}:GROUP:EDITS:RETAINED:VARIANT:FILE, as the benchmark does."
        ) from None
    more = {"learned": variant} if variant else {}
    return kind(**options, **more).texts(group)
