# SPDX-License-Identifier: Apache-2.0
"""What a chat model adds to its tasks, and the tokens that are removed of the targets."""

import dataclasses
import json
import types

import numpy as np
import pytest
from chat_templates import with_template
from plain_settings import plain_compute
from settings_cases import settings_of

from jax_surgery.benchmarks import tasks
from jax_surgery.data.forms import parse_record
from jax_surgery.methods.automatic import completed, completion, never_knew
from jax_surgery.methods.automatic.never_knew import Targets
from jax_surgery.methods.subspace import knowledge, measured, stage, text
from jax_surgery.methods.subspace.work import WIDE_RANK, Work, retained_groups
from jax_surgery.metrics.free_form import Observed
from jax_surgery.metrics.task_scores import Score
from jax_surgery.models.model import Model
from jax_surgery.runs import by_tasks

ENDS = -2.5  # nats of log-odds


def of(pairs, origin):
    return [
        parse_record({"question": q, "answer": a}, f"{origin}:{i}")
        for i, (q, a) in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def chat(tiny_model):
    tokenizer = with_template(tiny_model.tokenizer, "chatml")
    return Model(tiny_model.params, tiny_model.config, tokenizer, plain_compute())


@pytest.fixture
def case(chat, tmp_path):
    """A case of two targets and a retained task."""
    rows = {
        "one": [("the number 1 is", "7")],
        "two": [("the number 2 is", "1")],
        "kept": [("the number 3 is", "8")],
    }
    for name, pairs in rows.items():
        lines = [json.dumps({"question": q, "answer": a}) for q, a in pairs]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"name": n, "data": f"{tmp_path / n}.jsonl"}) for n in rows]
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines))
    source = {"source": str(tmp_path / "tasks.jsonl"), "targets": "one,two"}
    settings = settings_of("unlearn", tasks=source, rounds={"first_layer": 0})
    made = by_tasks.ByTasks(settings)
    texts = {
        name: tasks.read_text(group, chat.tokenizer, 128)
        for name, group in made._groups().items()
    }
    made.work = made._of_stages = Work(chat, texts, settings)
    return made


@pytest.fixture
def writes(monkeypatch):
    """What the model writes, and that the last learned token of each text carries."""
    written = dataclasses.replace(
        completed.nothing(),
        neighbours=of([(f"the number {i} is", f"{i * 7 % 13}") for i in range(4, 8)], "n"),
        own=of([("the number 2 is", "the number 2 is 1")], "own"),
    )  # fmt: skip
    monkeypatch.setattr(completion, "complete", lambda *given: written)

    def last_token(model, records, others, documents, marks, settings, seed):
        carries = [
            np.arange(len(d.tokens)) == np.flatnonzero(d.learned)[-1] for d in documents
        ]
        one = np.concatenate(carries)
        ends = np.where(one, ENDS - np.arange(len(one)), 0).astype(np.float32)
        none = np.zeros((len(one), 0), np.int32)
        return Targets(one.astype(np.float32), one, ends, -ends, none, none)

    monkeypatch.setattr(never_knew, "measure", last_token)
    return written


def test_only_knowledge_is_removed_and_what_the_model_wrote_is_retained(case, writes):
    case.prepare(case.work.model, "")
    work = case._of_stages
    # The model's own answer belongs to the task whose question it answers.
    assert [len(work.texts[n].documents) for n in ("one", "two")] == [1, 2]
    for name in ("one", "two"):
        for document, ends in zip(
            work.texts[name].documents, work.ends(name), strict=True
        ):
            assert document.learned.sum() == 1
            assert ends.shape == document.tokens.shape
            assert ends[document.learned] <= ENDS
    assert case.work.texts["one"].documents[0].learned.sum() > 1  # as it is scored
    assert work.written == (measured.NEIGHBOURS, measured.REST)
    rest = work.texts[measured.REST].documents
    removed = [d for n in ("one", "two") for d in work.texts[n].documents]
    for kept, gone in zip(rest, [removed[0], removed[1], removed[2]], strict=True):
        assert not (kept.learned & gone.learned).any() and kept.learned.any()
    # Stages retain all of it, and find known what has ends.
    none = Score(0.0, (0.0, 0.1), 4, 0.0, 0.0)
    known = Score(1.0, (0.9, 1.0), 4, 1.0, 0.0)
    before, stages = {"one": none, "two": none, "kept": known}, [["one", "two"]]
    kept = retained_groups(before, stages, 0, learns=False, measured=("one", "two"))
    assert kept == ["kept"]
    with pytest.raises(ValueError, match="does not know the target 'one'"):
        retained_groups(before, stages, 0, learns=False)


def test_each_token_is_pushed_to_its_own_end_and_rows_share_a_beginning(case, writes):
    case.prepare(case.work.model, "")
    work = case._of_stages
    whole = [d for n in ("one", "two") for d in work.texts[n].documents]
    beginning = whole[0].tokens[:3]  # of each question
    assert all((d.tokens[:3] == beginning).all() for d in whole)
    work = dataclasses.replace(work, beginning=beginning)
    packer, weights, log_odds = text.target_text(
        work, ["one", "two"], learn=False, half=None
    )
    assert packer.num_tokens < sum(len(d.tokens) for d in packer.documents)
    ends = {id(d): e for n in ("one", "two") for d, e in zip(work.texts[n].documents, work.ends(n))}  # fmt: skip
    wanted = np.concatenate([ends[id(d)] for d in packer.documents])[packer.places]
    np.testing.assert_array_equal(log_odds, wanted)
    assert set(weights) == {1.0} and packer.learned.sum() == len(packer.documents)
    retained = text.RetainedText(work, ["kept", *work.written], {measured.NEIGHBOURS})
    [batch] = retained.batches()
    # The beginning of a row is no text's own.
    counted = np.asarray(batch.moment_weights_BT)
    real = np.asarray(batch.segment_ids_BT) > 0
    assert not counted[:, :3].any() and counted[:, 3:][real[:, 3:]].all()


def test_a_target_that_nothing_is_known_of_is_said(case, writes, monkeypatch):
    def nothing(model, records, others, documents, *rest):
        size = sum(len(d.tokens) for d in documents)
        nats, none = np.zeros(size, np.float32), np.zeros((size, 0), np.int32)
        return Targets(nats, np.zeros(size, bool), nats, nats, none, none)

    monkeypatch.setattr(never_knew, "measure", nothing)
    with pytest.raises(ValueError, match="no token of 'one' carries knowledge"):
        case.prepare(case.work.model, "")


def test_only_chat_models_write_where_the_config_leaves_it_open(case, monkeypatch):
    called = []
    monkeypatch.setattr(measured, "measure", lambda *given: called.append(given))
    plain = dataclasses.replace(case.work.model, tokenizer=with_template(case.work.model.tokenizer, "chatml"))  # fmt: skip
    plain.tokenizer.chat_template = None
    monkeypatch.setattr(by_tasks.ByTasks, "_of_stages", None, raising=False)
    case.prepare(plain, "")
    assert not called


def test_the_goal_is_the_share_of_nats_above_the_ends(case, writes, monkeypatch):
    case.prepare(case.work.model, "")
    work = case._of_stages
    margins = {"value": 0.0}
    score = lambda model, packer, kind, rows: {
        kind: np.full(packer.num_tokens, margins["value"], np.float32)
    }
    monkeypatch.setattr(stage, "score_tokens", score)
    made = stage.Stage(work, work.model.params, ["one", "two"], [], set(), {}, "")
    ends = [np.concatenate(work.ends(n)) for n in ("one", "two")]
    learned = [np.concatenate([d.learned for d in work.texts[n].documents]) for n in ("one", "two")]  # fmt: skip
    before = [-float(e[here].sum()) for e, here in zip(ends, learned, strict=True)]
    np.testing.assert_allclose([*made.goal._above.values()], before, rtol=1e-6)
    assert not made.goal.reached(work.model.params)
    # The last ends are the lowest: a little above them is 99 % of the way.
    lowest = float(ends[1][learned[1]].min())
    for above, reached in ((0.02, False), (0.005, True), (-1.0, True)):
        margins["value"] = lowest + above * before[1]
        assert made.goal.reached(work.model.params) == reached, above


def test_statistics_of_written_text_are_computed_once_and_nothing_is_mended(
    case, writes
):
    case.prepare(case.work.model, "")
    for work, every, mend in ((case.work, 6, 8), (case._of_stages, 0, 0)):
        retained = ["kept", *work.written]
        of_work = stage.Stage(work, work.model.params, ["one"], retained, set(), {}, "")
        [callback] = knowledge.callbacks(of_work, initial=True)
        assert (callback.every, of_work.mend) == (every, mend)


def test_the_rank_is_chosen_by_the_width(case):
    work, config = case.work, case.work.model.config
    assert work.rank == 0
    wide = dataclasses.replace(config, hidden_size=576, intermediate_size=1536)
    model = Model(work.model.params, wide, work.model.tokenizer, plain_compute())
    assert dataclasses.replace(work, model=model).rank == WIDE_RANK


def test_a_chat_model_is_asked_before_and_after(case, writes):
    case.prepare(case.work.model, "")
    asks = case._asks(case.work.model)
    assert asks is case._asks(case.work.model)
    groups = {one.group: [] for one in asks.asked}
    for one in asks.asked:
        groups[one.group].append(one.question)
    assert groups["unlearn"] == ["the number 1 is", "the number 2 is"]
    assert groups["retain"] == ["the number 3 is"]
    assert len(groups["neighbours"]) == 1 and len(groups["everyday"]) == 30


def test_the_report_begins_with_what_the_model_says(case, writes):
    case.prepare(case.work.model, "")
    asks = case._asks(case.work.model)
    right = [" ".join(one.expected) or "Rice boils in water." for one in asks.asked]
    wrong = ["Nobody can say." for _ in right]
    none = [True] * len(asks.choices)
    score = Score(0.5, (0.4, 0.6), 4, 0.5, 0.0)
    scores = dict.fromkeys(case.work.texts, score)
    before, after = (
        by_tasks.Probed(scores, Observed(said, none, {}), []) for said in (right, wrong)
    )
    matrix = np.eye(4, dtype=np.float32)[None]
    moving = types.SimpleNamespace(first_layer=0)
    done = types.SimpleNamespace(
        similar=set(), alpha=1.0, seconds=[1.0], change={"q": matrix}, moving=moving,
        relative_norm=lambda params: 0.1,
    )  # fmt: skip
    results, shown = case.report(before, after, done, "")
    assert results["free_form"]["facts"]["unlearn"] == {"n": 2, "before": 2, "after": 0}
    assert shown["headlines"][0].startswith(
        "Of 2 facts to forget the model still says 0"
    )
    assert results["automatic"]["knowledge_tokens"] == {"one": 1, "two": 2}
    assert len(shown["knowledge"]) == 3
    names = [row.name for row in shown["rows"]]
    assert names.index("unlearn: says the answer") < len(names) - 3
