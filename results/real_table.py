# SPDX-License-Identifier: Apache-2.0
"""The automatic mode on a real chat model: facts that it knows are forgotten or replaced.

    python results/real_table.py --model=DIR --workdir=runs/real_table --sets=a,b,c

asks the model every fact of results/real_facts.toml, takes disjoint sets of 18 that it
knows, runs configs/automatic.py on each (six of the facts are replaced, twelve others are
the lines to keep), and writes results/real_table.md: greedy answers before and after in
wordings that were trained and that were not, the right answer against three wrong ones,
and all other facts that the model knew, of which no text is given to the run; those
that share a subject or an answer with a fact to forget are counted by themselves. Settings
were chosen on the facts of set a. Finished runs are not repeated.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import random
import tomllib
from collections.abc import Sequence

from etils import epath
from paper_table import run_once
from tables import markdown, on_this_machine, settings_of

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import asked, general
from jax_surgery.data.forms import Record, parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.methods.automatic import completed, subjects
from jax_surgery.methods.automatic.questions import Asked, prompts
from jax_surgery.methods.automatic.writer import Writer
from jax_surgery.metrics import multiple_choice, replies
from jax_surgery.metrics.tokens import score_texts
from jax_surgery.models.compute import DEFAULT_COMPUTE
from jax_surgery.models.model import Model
from jax_surgery.runs import surgery
from jax_surgery.train import devices

HERE = pathlib.Path(__file__).parent
FORGET, UPDATE, KEEP, OF_RELATION = 18, 6, 12, 5  # facts of a set
TRAINED, UNSEEN = slice(0, 4), slice(4, 6)  # wordings
REPLY = 24  # tokens
CONTEXT = 256  # tokens of a row of text
TEXT = "other text, nats per token"
TOLD = "other facts that the model's own retained text tells"
SETS = ("a", "b", "c")


@dataclasses.dataclass(frozen=True)
class Fact:
    """A fact: its relation, subject, answer, three wrong answers, and questions."""

    relation: str
    subject: str
    answer: str
    wrong: tuple[str, ...]
    questions: tuple[str, ...]


def read() -> dict:
    """What real_facts.toml holds."""
    return tomllib.loads((HERE / "real_facts.toml").read_text())


def facts() -> tuple[list[Fact], dict[str, list[str]]]:
    """All facts, and the new answers of each relation."""
    relations = read()["relations"]
    found = []
    for name, relation in relations.items():
        answers = sorted({answer for _, answer in relation["facts"]})
        for subject, answer in relation["facts"]:
            place = answers.index(answer)
            wrong = [answers[(place + i) % len(answers)] for i in (1, 2, 3)]
            asked = (wording.format(subject) for wording in relation["wordings"])
            questions = tuple(text[0].upper() + text[1:] for text in asked)
            if not replies.says(subject, answer):
                found.append(Fact(name, subject, answer, tuple(wrong), questions))
    return found, {name: relation["new"] for name, relation in relations.items()}


def ask(model: Model, questions: list[str]) -> list[str]:
    """Greedy replies in the chat template."""
    rows = [{"question": question, "answer": "-"} for question in questions]
    turns = [Asked(parse_record(row, ""), row["question"]) for row in rows]
    writer = Writer(model, seed=0)
    said = writer.greedy(prompts(turns, model.tokenizer), REPLY)
    return [written.text for written in said]


def known(model: Model, workdir: pathlib.Path) -> list[Fact]:
    """The facts that the model says in the first wording and in four of six."""
    file = workdir / "known.json"
    every, _ = facts()
    if not file.exists():
        said = iter(ask(model, [q for fact in every for q in fact.questions]))
        right = [
            [replies.says(next(said), fact.answer) for _ in fact.questions]
            for fact in every
        ]
        chosen = [i for i, ok in enumerate(right) if ok[0] and sum(ok) >= 4]
        file.write_text(json.dumps(chosen))
    return [every[i] for i in json.loads(file.read_text())]


def sets(of: list[Fact]) -> dict[str, list[Fact]]:
    """Disjoint sets of facts to forget; the first is the one of the settings."""
    tuned = read()["tuned"]
    found = {SETS[0]: [fact for fact in of if fact.questions[0] in tuned]}
    others = [fact for fact in of if fact.questions[0] not in tuned]
    order = random.Random(1).sample(others, len(others))
    for name in SETS[1:]:
        chosen, counts = [], collections.Counter()
        for fact in order:
            fresh = fact.answer not in [other.answer for other in chosen]
            if counts[fact.relation] < OF_RELATION and fresh and len(chosen) < FORGET:
                chosen.append(fact)
                counts[fact.relation] += 1
        order = [fact for fact in order if fact not in chosen]
        found[name] = chosen
    return found


@dataclasses.dataclass(frozen=True)
class Job:
    """What one run is given, and what it is asked.

    Attributes:
      forget: facts to forget; update: some of them, with their new answers; keep: facts
        of which a line is given; rest: other facts that the model knows; related: those
        whose subject or answer is that of a fact to forget, which may follow it; told:
        those of the rest that retained text of the run tells too.
    """

    forget: list[Fact]
    update: list[tuple[Fact, str]]
    keep: list[Fact]
    rest: list[Fact]
    related: list[Fact]
    told: list[Fact]

    def beside(self, records: Sequence[Record]) -> "Job":
        """The job with the other facts that some records ask for and tell apart from
        the rest, of which nothing that is retained speaks."""
        said = [(subjects.question_of(r).casefold(), r.said) for r in records]
        is_told = lambda fact: any(
            fact.subject.casefold() in question and replies.says(answer, fact.answer)
            for question, answer in said
        )
        told = [fact for fact in self.rest if is_told(fact)]
        rest = [fact for fact in self.rest if fact not in told]
        return dataclasses.replace(self, rest=rest, told=told)

    def rows(self) -> dict[str, list[dict[str, str]]]:
        """The three files."""

        def of(pairs, wordings):
            return [
                {"question": question, "answer": answer}
                for fact, answer in pairs
                for question in fact.questions[wordings]
            ]

        return {
            "unlearn": of([(f, f.answer) for f in self.forget], TRAINED),
            "update": of(self.update, TRAINED),
            "retain": of([(f, f.answer) for f in self.keep], slice(0, 1)),
        }

    def asked(self) -> dict[str, list[tuple[str, str]]]:
        """(question, what is looked for) by group."""
        update = {fact: new for fact, new in self.update}
        groups = {}
        for name, wordings in (("trained", TRAINED), ("unseen", UNSEEN)):
            groups[f"forget, {name}"] = [
                (q, fact.answer)
                for fact in self.forget
                for q in fact.questions[wordings]
            ]
            groups[f"update, {name}"] = [
                (q, new)
                for fact, new in update.items()
                for q in fact.questions[wordings]
            ]
        groups["kept lines"] = [(f.questions[0], f.answer) for f in self.keep]
        groups["other facts"] = [(f.questions[0], f.answer) for f in self.rest]
        groups["related facts"] = [(f.questions[0], f.answer) for f in self.related]
        groups[TOLD] = [(f.questions[0], f.answer) for f in self.told]
        return groups

    def choices(self) -> list[Question]:
        """The facts to forget, with three wrong answers."""
        return [
            Question(
                f"{fact.answer}-{i}",
                "forget",
                "trained" if i < TRAINED.stop else "unseen",
                question,
                (fact.answer, *fact.wrong),
                0,
            )
            for fact in self.forget
            for i, question in enumerate(fact.questions)
        ]


def job(of: list[Fact], chosen: list[Fact]) -> Job:
    """The job of one set."""
    _, new = facts()
    left = {name: list(answers) for name, answers in new.items()}
    update = []
    for fact in chosen:
        if len(update) < UPDATE and left[fact.relation]:
            update.append((fact, left[fact.relation].pop(0)))
    others = [fact for fact in of if fact not in chosen]
    others = random.Random(2).sample(others, len(others))
    taken = {name for fact in chosen for name in (fact.subject, fact.answer)}
    related = [f for f in others if taken & {f.subject, f.answer}]
    others = [f for f in others if f not in related]
    return Job(chosen, update, others[:KEEP], others[KEEP:], related, [])


def measure(model: Model, of: Job) -> dict:
    """Shares in %, and how many everyday replies degenerate or leak."""
    groups = of.asked()
    everyday = general.everyday_prompts()
    said = iter(
        ask(model, [q for pairs in groups.values() for q, _ in pairs] + everyday)
    )
    new, found, leaks = [n for _, n in of.update], {}, 0
    for group, pairs in groups.items():
        replied = [(next(said), answer) for _, answer in pairs]
        right = [replies.says(reply, answer) for reply, answer in replied]
        found[group] = 100 * sum(right) / max(len(right), 1)
        if group in ("kept lines", "other facts", "related facts", TOLD):
            leaks += sum(
                any(replies.says(reply, n) for n in new if n != answer)
                for reply, answer in replied
            )
    rest = list(said)
    found["everyday replies that degenerate"] = sum(map(replies.is_degenerate, rest))
    found["replies with a new answer that is not theirs"] = leaks
    probe = Probe("forget", CONTEXT, tuple(of.choices()), chat="always")
    answers = multiple_choice.answer(model, probe)
    entry = multiple_choice.summarise(answers)["forget"]
    found["choice of four"] = 100 * entry["accuracy"]
    found[TEXT] = nats_of_text(model)
    return found


def nats_of_text(model: Model) -> float:
    """Nats per token of the packaged passages that no run trains on."""
    passages = tuple(asked.measured_passages())
    scores = score_texts(model, Probe("text", CONTEXT, records=passages))
    return float(-scores.logp.sum() / scores.tokens.sum())


def load(source: str) -> Model:
    """A model to ask."""
    tokenizer = hf_weights.load_tokenizer(source)
    return devices.load(source, DEFAULT_COMPUTE, tokenizer)


def write_files(of: Job, folder: pathlib.Path) -> dict[str, str]:
    """Writes the files of a job; config fields with their paths."""
    files = {}
    for role, rows in of.rows().items():
        file = folder / f"{role}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[f"data.{role}"] = str(file)
    return files


def run_set(model: str, of: Job, folder: pathlib.Path) -> dict:
    """Runs a job; its measures before and after."""
    files = write_files(of, folder)
    results = surgery.run(
        settings_of("automatic", model=model, free_form=0, **files),
        str(folder / "run"),
    )
    of = of.beside(written(folder / "run"))
    return {
        "before": measure(load(model), of),
        "after": measure(load(str(folder / "run" / "model")), of),
        "automatic": results["automatic"],
        "other facts": len(of.rest),
    }


def written(run: pathlib.Path) -> list[Record]:
    """What the model wrote for a run as questions with answers to retain."""
    found = completed.read(epath.Path(run) / completed.FILE)
    assert found is not None, "the run has just written it"
    kinds = found.retained()
    return [record for kind in completed.ANSWERED for record in kinds[kind]]


def table(entries: dict[str, dict]) -> str:
    """The table as Markdown."""
    names = list(entries)
    rows = []
    for group in next(iter(entries.values()))["before"]:
        digits = 4 if group == TEXT else 1
        cells = [
            f"{entries[n]['before'][group]:.{digits}f} -> "
            f"{entries[n]['after'][group]:.{digits}f}"
            for n in names
        ]
        rows.append([group, *cells])
    rows.append(
        ["other facts: how many", *(str(e["other facts"]) for e in entries.values())]
    )
    for key in ("step", "steps"):
        rows.append([key, *(str(entries[n]["automatic"][key]) for n in names)])
    rows.append(["minutes", *(f"{entries[n]['seconds'] / 60:.1f}" for n in names)])
    return markdown(["% unless it says so", *(f"set {n}" for n in names)], rows)


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    arguments = parser.parse_args()
    workdir = pathlib.Path(arguments.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    of = known(load(arguments.model), workdir)
    entries = {}
    for name in arguments.sets.split(","):
        one = job(of, sets(of)[name])
        entries[name] = run_once(
            workdir / name,
            lambda place, one=one: run_set(arguments.model, one, pathlib.Path(place)),
        )
    text = (
        f"# The automatic mode on a real model\n\n{(__doc__ or '').split('writes')[0]}"
        f"prints this table.\n\n{table(entries)}\n{on_this_machine()}.\n"
    )
    (HERE / "real_table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
