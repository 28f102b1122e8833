# SPDX-License-Identifier: Apache-2.0
"""The retained text that a user does not have, written by the model itself.

Some lines to keep cannot stand for all that a model knows, and what no retained text names
is lost first: the same questions about other subjects. So the model writes, before it is
changed: neighbours of what is forgotten, other questions about what is updated, chats,
free text and its own answers to questions of the user's retained text, which are
retained; its own answers to what is to be forgotten, which are unlearned too; and its own
sentences that state what is new. What it writes is kept in the run's directory, for the
reader and for a run that goes on.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

from etils import epath

from jax_surgery.config import at_least
from jax_surgery.data import general, prompts
from jax_surgery.data.forms import Record
from jax_surgery.data.roles import RoleRecords
from jax_surgery.methods.automatic import (
    completed,
    general_questions,
    general_text,
    named_subjects,
    neighbours,
    questions,
    rewordings,
    same_subjects,
    self_written,
    subjects,
)
from jax_surgery.methods.automatic.completed import Completed
from jax_surgery.methods.automatic.facts import Facts
from jax_surgery.methods.automatic.questions import Asked
from jax_surgery.methods.automatic.writer import Writer
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed, progress
from jax_surgery.train import checksums, identity

VERSION = 7  # of how text is written; another one writes it anew
HOW = {"temperature": 0.8, "top_p": 0.9}  # of answers and texts that are drawn


@dataclasses.dataclass(frozen=True)
class Completion:
    """How much a model writes; of each kind fewer texts come where it repeats itself or
    names what is forgotten.

    Attributes:
      neighbours: questions about other subjects, answered by the model; those whose
        answers are likeliest are retained (`neighbours.KNOWN`).
      named: such questions about packaged names, at most; retained likewise.
      subjects: other questions about subjects of the update, at most; answered, and
        chosen as neighbours are.
      rewordings: other wordings of the job's questions, at most; half of those that ask
        for what is updated are trained on.
      knowledge: packaged questions of general knowledge, at most; answered, and chosen
        as neighbours are.
      kept: answers to questions of the user's retained text, at most.
      chats: turns of a user with the model's answers, half of them packaged prompts.
      texts: free texts.
      passages: packaged passages of general text, added to the free texts.
      answer_tokens: of an answer to a question, at most.
      chat_tokens: of an answer in a chat, at most.
      text_tokens: of a free text, at most.
    """

    neighbours: int = 140
    named: int = 160
    subjects: int = 60
    rewordings: int = 96
    knowledge: int = 160
    kept: int = 120
    chats: int = 80
    texts: int = 40
    passages: int = 48
    answer_tokens: int = 28
    chat_tokens: int = 40
    text_tokens: int = 56

    def __post_init__(self):
        path = "completion"
        at_least(0, self, path, "neighbours", "named", "subjects")
        at_least(0, self, path, "rewordings")
        at_least(0, self, path, "knowledge", "kept", "chats", "texts", "passages")
        at_least(1, self, path, "answer_tokens", "chat_tokens", "text_tokens")


def complete(
    model: Model,
    records: RoleRecords,
    settings: Completion,
    seed: int,
    directory: str,
) -> Completed:
    """What the model writes, read back where this run has written it already.

    Every process must call. A model without a chat template writes no chats, and is asked
    in the plain text of its records; records that ask nothing have no neighbours.

    Args:
      records: of all roles; nothing that is to be unlearned comes back as retained text.
      settings: how much is written.
      seed: of all draws.
      directory: of the run, where `completed.jsonl` lies.
    """
    key = fingerprint(model, records, settings, seed)
    file = epath.Path(directory) / completed.FILE
    there = completed.read(file, key)
    if distributed.all_agree(there is not None):
        assert there is not None
        print(f"retained text that the model wrote: read from {file}")
        return there
    written = _written(model, records, settings, seed)
    distributed.on_lead(lambda: completed.write(file, key, written))
    return written


def fingerprint(
    model: Model, records: RoleRecords, settings: Completion, seed: int
) -> str:
    """Hash of all that decides what is written."""
    roles = {role: identity.of_records(rows) for role, rows in records.by_role.items()}
    roles["retained"] = identity.of_records(records.retained)
    packaged = [general.passages(), general.prompts(), general.questions()]
    kinds = general.names().items()
    packaged.append([f"{kind}: {name}" for kind, some in kinds for name in some])
    how = [dataclasses.asdict(settings), seed, VERSION, model.compute.dtype]
    of = [identity.of_model(model), roles, checksums.of_value(packaged), how]
    return checksums.of_value(of)


def _written(
    model: Model, records: RoleRecords, settings: Completion, seed: int
) -> Completed:
    packaged = _knows_general_text(model)
    with progress.Bar(title="writing text to retain", unit="text") as bar:
        writer = Writer(model, seed, lambda count: _advance(bar, count))
        author = _Author(writer, records, settings, packaged)
        bar.total = author.texts_to_write
        bar.refresh()
        return author.write()


def _knows_general_text(model: Model) -> bool:
    fit = general_text.fit(model)
    if not fit.known:
        print(
            f"The packaged general text costs this model {fit.model:.1f} nats per token, "
            f"more than the frequencies of its tokens alone do ({fit.frequencies:.1f}): "
            "it is of another language, and none of it is retained."
        )
    return fit.known


def _advance(bar: progress.Bar, count: int) -> None:
    """Tells the bar of written texts; more are written where many cannot be used."""
    if bar.total is not None and bar.n + count > bar.total:
        bar.total = bar.n + count
    bar.update(count)


class _Author:
    """Writes all kinds, those that need the same of a model together."""

    def __init__(
        self,
        writer: Writer,
        records: RoleRecords,
        settings: Completion,
        packaged: bool,
    ):
        """
        Args:
          packaged: whether packaged text and questions are retained too.
        """
        self._writer, self._settings = writer, settings
        self._packaged = packaged
        self._unlearn = records.by_role.get("unlearn", [])
        self._update = records.by_role.get("update", [])
        self._retained = [*records.by_role.get("retain", []), *records.retained]
        self._chats = prompts.asks_as_chat(writer.tokenizer, "auto")
        own, new = self._asked(self._unlearn), self._asked(self._update)
        self._own = list({one.question: one for one in own}.values())
        self._all = list({one.question: one for one in (*own, *new)}.values())
        self._new = new
        job = {one.question for one in self._all}
        retained = self._asked(records.by_role.get("retain", []))
        kept = {o.question: o for o in retained if o.question not in job}
        self._kept = list(kept.values())[: settings.kept]
        texts = [r.text for r in self._unlearn if not self._of(r)]
        pairs = [(one.question, one.record.said) for one in (*own, *new)]
        self._facts = Facts(pairs, texts)

    def _of(self, record: Record) -> Asked | None:
        return questions.of(record, self._writer.tokenizer)

    def _asked(self, records: Sequence[Record]) -> list[Asked]:
        return [one for record in records if (one := self._of(record))]

    @property
    def texts_to_write(self) -> int:
        """About how many texts are written, those included that cannot be used."""
        settings = self._settings
        lines = neighbours.WRITTEN_FOR_ONE + 1 if self._all else 0
        turns = self_written.WRITTEN_FOR_ONE / 2 + 1 if self._chats else 0
        of_kinds = settings.neighbours * lines + settings.chats * turns
        own = len(self._kept) + len(self._about) + 2 * len(self._all)
        own += len(self._named) + len(self._general) + 2 * settings.rewordings
        return round(of_kinds) + settings.texts + own

    def write(self) -> Completed:
        """All kinds, one after another."""
        facts = self._facts
        named = self._named
        near = [*named, *self._near([question for _, question in named])]
        turns = self._turns()
        own_lines = [(one, one.question) for one in self._kept]
        about, general_ones = self._about, self._general
        others = rewordings.questions(
            *(self._writer, self._own, facts, self._settings.rewordings)
        )
        of_own, of_others = self._answers(
            [*own_lines, *about, *general_ones, *near, *others]
        )
        answers = iter(of_others)

        def answered(
            asked: list[tuple[Asked, str]], kind: str
        ) -> list[tuple[Asked, Record]]:
            own = list(itertools.islice(answers, len(asked)))
            return neighbours.answered(asked, own, facts, kind)

        kept, beside = answered(own_lines, "kept"), answered(about, "subjects")
        of_all, nearby = (
            answered(general_ones, "knowledge"),
            answered(near, "neighbours"),
        )
        told = rewordings.answered(others, list(answers), facts)
        trained, aside = rewordings.halves(told, set(self._renewing), facts)
        drawn, of_turns = self._drawn(turns)
        model = self._writer.model
        return Completed(
            neighbours=neighbours.known(model, nearby, facts),
            subjects=neighbours.known(model, beside, None),
            knowledge=neighbours.known(model, of_all, None),
            kept=[record for _, record in kept],
            chat=self_written.chats(turns, of_turns, facts),
            text=self._texts(),
            own=self._own_answers(of_own, drawn),
            reworded=self._renewed(trained),
            sentences=self._sentences(of_own, drawn),
            unlearn_asked=self._short(aside),
            update_asked=self._renewed(aside),
        )

    def _near(self, known: Sequence[str]) -> list[tuple[Asked, str]]:
        """Neighbours that the model writes beside those that are known."""
        known = [*known, *(one.question for one in self._asked(self._retained))]
        count = self._settings.neighbours if self._all else 0
        return neighbours.questions(self._writer, self._all, self._facts, known, count)

    @functools.cached_property
    def _named(self) -> list[tuple[Asked, str]]:
        """The job's questions about packaged names."""
        if not self._packaged:
            return []
        known = [one.question for one in self._asked(self._retained)]
        rng, count = self._writer.rng("packaged names"), self._settings.named
        how = (self._facts, known, general.names(), rng, count)
        return named_subjects.questions(self._all, *how)

    @functools.cached_property
    def _about(self) -> list[tuple[Asked, str]]:
        """Other questions about subjects of the update."""
        if not self._settings.subjects:
            return []
        count = self._settings.subjects
        known = [one.question for one in self._asked(self._retained)]
        rng = self._writer.rng("subjects of the update")
        new = list({one.question: one for one in self._new}.values())
        likely = same_subjects.likelihood(self._writer.model)
        how = (self._facts, known, likely, rng, count)
        found = same_subjects.questions(new, self._all, *how)
        chosen = rng.permutation(len(found))[:count]
        return [found[i] for i in sorted(chosen)]

    @functools.cached_property
    def _general(self) -> list[tuple[Asked, str]]:
        """Questions of general knowledge."""
        if not self._packaged:
            return []
        known = {one.question for one in (*self._all, *self._asked(self._retained))}
        rng, count = self._writer.rng("general knowledge"), self._settings.knowledge
        how = (self._all, self._facts, known, rng, count, self._chats)
        return general_questions.questions(*how)

    def _turns(self) -> list[str]:
        """What a user says in the chats: what the model wrote, and packaged prompts."""
        count = self._settings.chats
        if not self._chats or not count:
            return []
        own = self_written.user_turns(self._writer, self._facts, count // 2)
        prompts = self_written.packaged_prompts(
            self._writer, self._facts, count - len(own)
        )
        return [*own, *prompts]

    def _answers(
        self, near: Sequence[tuple[Asked, str]]
    ) -> tuple[dict[str, str], list[str]]:
        """Greedy answers: to the job's own questions by question, and the first sentences
        of those to others, "" where none is whole."""
        asked = [
            questions.Asked(one.other(question, "A", ""), question)
            for one, question in near
        ]
        tokens = questions.prompts([*self._all, *asked], self._writer.tokenizer)
        said = self._writer.greedy(tokens, self._settings.answer_tokens)
        own = {
            one.question: self._answer(written.text)
            for one, written in zip(self._all, said, strict=False)
        }
        others = said[len(self._all) :]
        return own, [self_written.first_sentence(one, self._chats) for one in others]

    def _drawn(self, turns: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Drawn answers: to the job's own questions by question, and to chats."""
        chats = [
            questions.Asked(Record("", "", (("user", t), ("assistant", "A")), ""), t)
            for t in turns
        ]
        tokens = questions.prompts([*self._all, *chats], self._writer.tokenizer)
        longest = self._settings.chat_tokens
        said = self._writer.sampled(tokens, longest, "answers", **HOW)
        texts = [written.text for written in said]
        own = zip(self._all, map(self._answer, texts), strict=False)
        return {one.question: text for one, text in own}, texts[len(self._all) :]

    def _answer(self, text: str) -> str:
        """An answer without what follows it where no turn ends it."""
        return text.strip() if self._chats else text.strip().partition("\n")[0]

    def _texts(self) -> list[Record]:
        writer, settings, facts = self._writer, self._settings, self._facts
        passages: list[Record] = []
        if self._packaged:
            most = max(settings.passages, settings.texts)
            passages = self_written.passages(writer.tokenizer, facts, most)
        kept = [record.text for record in self._retained if not self._of(record)]
        known = [record.text for record in passages[: settings.texts]]
        begin = [*kept[: settings.texts], *known]
        starts = self_written.text_starts(writer, begin, settings.texts)
        begun = [writer.learned(start) for start in starts]
        said = writer.sampled(begun, settings.text_tokens, "free text", **HOW)
        whole = self_written.free_text(starts, [one.text for one in said], facts)
        return [*whole, *passages[: settings.passages]]

    def _own_answers(self, *said: Mapping[str, str]) -> list[Record]:
        each = [[one[asked.question] for asked in self._own] for one in said]
        return self_written.own_answers(self._own, each, self._unlearn)

    @property
    def _renewing(self) -> dict[tuple[str, ...], Asked]:
        """A record with the new answer of each fact that gets one, by its questions."""
        return {self._facts.of(one.question).questions: one for one in self._new}

    def _renewed(self, found: Sequence[tuple[Asked, Record]]) -> list[Record]:
        """Of other wordings those that get a new answer, with it."""
        new = self._renewing
        pairs = [(new.get(self._facts.of(o.question).questions), r) for o, r in found]
        return [
            one.other(subjects.question_of(row), one.record.said, row.origin)
            for one, row in pairs
            if one
        ]

    def _short(self, found: Sequence[tuple[Asked, Record]]) -> list[Record]:
        """Other wordings with the short answer that is to be unlearned."""
        short = subjects.shortest_answers(self._unlearn)
        return [
            one.other(subjects.question_of(row), short[one.question], row.origin)
            for one, row in found
        ]

    def _sentences(self, *said: Mapping[str, str]) -> list[Record]:
        new = [(one, one.record.said) for one in self._new]
        old: dict[str, list[str]] = {}
        for record in self._unlearn:
            if one := self._of(record):
                old.setdefault(one.question, []).append(record.said)
        return self_written.sentences(new, old, said)
