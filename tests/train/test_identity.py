# SPDX-License-Identifier: Apache-2.0
"""A resumed run reads what it read when it began: by content, not by name or number."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from damage import cut
from safetensors.numpy import load_file, save_file
from settings_cases import plain_surgery, settings_of

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import BatchStream
from jax_surgery.data.tokens import Document, digest
from jax_surgery.runs import pretrain, surgery, tofu
from jax_surgery.runs.by_roles import ByRoles
from jax_surgery.runs.by_tasks import ByTasks
from jax_surgery.train import identity

CASE = pathlib.Path(__file__).parents[3] / "shared" / "cases" / "22-resume"
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def test_what_changed_is_refused_by_its_field(tmp_path):
    directory = str(tmp_path / "run")
    identity.check(directory, {"config.data.update": A, "config.model": B})
    identity.check(directory, {"config.data.update": A, "config.model": B})
    identity.check(directory, {"config.data.questions": C})  # noted later
    for field, value in [("config.model", A), ("config.data.questions", B)]:
        with pytest.raises(ValueError, match=f"^{field} has changed since the run in"):
            identity.check(directory, {field: value})
    with pytest.raises(ValueError) as raised:
        identity.check(directory, {"config.model": A})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change", [lambda d: d[:40], lambda d: d.replace(b"bbb", b"bab")]
)
def test_a_damaged_note_is_said_and_written_anew(tmp_path, change, capsys):
    directory, file = str(tmp_path), tmp_path / identity.IDENTITY_FILE
    identity.check(directory, {"config.model": B})
    file.write_bytes(change(file.read_bytes()))
    identity.check(directory, {"config.model": B})
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{file} is damaged and is written anew")
    with pytest.raises(ValueError, match="has changed"):
        identity.check(directory, {"config.model": A})


def test_hosts_that_read_different_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(identity.distributed, "all_agree", lambda value: False)
    with pytest.raises(ValueError, match="is not the same on all hosts"):
        identity.check(str(tmp_path), {"config.data.update": A})


def test_the_field_that_another_host_reads_differently_is_named(tmp_path, monkeypatch):
    answers = []

    def all_agree(value):
        answers.append(value)
        return value

    def broadcast(rows):
        """Process 0 read another text for the second of three fields."""
        changed = rows.copy()
        if len(rows) == 3:
            changed[1, 7] ^= 1
        return changed

    monkeypatch.setattr(identity.distributed, "all_agree", all_agree)
    monkeypatch.setattr(identity.multihost_utils, "broadcast_one_to_all", broadcast)
    found = {"config.data.retain": A, "config.data.update": B, "config.model": C}
    with pytest.raises(ValueError, match="^config.data.update is not the same on all"):
        identity.check(str(tmp_path), found)
    assert answers == [True, True, False, True]


def test_hosts_that_read_other_fields_name_none_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(
        identity.multihost_utils, "broadcast_one_to_all", lambda rows: rows ^ 1
    )
    with pytest.raises(ValueError, match="^what is read is not the same on all hosts"):
        identity.check(str(tmp_path), {"config.data.update": A})


def test_records_count_and_where_they_stand_does_not():
    one = Record("Who?", " Ada.", (), "a.jsonl:1")
    moved = dataclasses.replace(one, origin="b.jsonl:7")
    assert identity.of_records([one]) == identity.of_records([moved])
    others = [
        dataclasses.replace(one, prompt="Who? Ada", answer="."),
        dataclasses.replace(one, alternative=" Bo."),
        dataclasses.replace(one, messages=(("user", "Who?"),)),
    ]
    found = {identity.of_records([record]) for record in (one, *others)}
    found |= {identity.of_records([]), identity.of_records([one, one])}
    assert len(found) == 6


def document(tokens, learned) -> Document:
    return Document(np.array(tokens, np.int32), np.array(learned, bool), "f:1")


TEXT = [document([1, 2, 3], [0, 0, 1]), document([4, 5], [0, 1])]
# Equal counts of documents and tokens each.
OTHERS = {
    "another token": [document([1, 9, 3], [0, 0, 1]), TEXT[1]],
    "another order": [document([2, 1, 3], [0, 0, 1]), TEXT[1]],
    "another mark": [document([1, 2, 3], [0, 1, 1]), TEXT[1]],
    "another border": [document([1, 2], [0, 0]), document([3, 4, 5], [1, 0, 1])],
    "documents in another order": TEXT[::-1],
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_stream_does_not_go_on_with_other_text(other):
    def stream(documents):
        return BatchStream({"update": Packer(documents, 8, "tokens")}, {"update": 1}, 0)

    state = json.loads(json.dumps(stream(TEXT).get_state()))
    stream(TEXT).set_state(state)
    assert digest(TEXT) != digest(OTHERS[other])
    with pytest.raises(ValueError, match="the saved run read text of the hash"):
        stream(OTHERS[other]).set_state(state)
    del state["update"]["identity"]["text"]  # as an earlier version left it
    with pytest.raises(ValueError, match="start in a new workdir"):
        stream(TEXT).set_state(state)


class Stop(Exception):
    """Stands for a run that is stopped once it has begun."""


@pytest.fixture
def stops_early(monkeypatch):
    """Runs stop when they have read everything, before anything is compiled."""

    def stop(*_):
        raise Stop

    for case in (ByRoles, ByTasks):
        monkeypatch.setattr(case, "probe", stop)


def lines(file: pathlib.Path, *rows) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


QUESTION = {
    "id": "q", "group": "g", "wording": "trained", "prompt": "the number 1 is",
    "options": [" 7", " 8"], "answer": 0,
}  # fmt: skip


@pytest.fixture
def roles(tiny_model, tmp_path):
    """A folder with a model, text and questions, and the settings of a surgery on it."""
    shutil.copytree(tiny_model.folder, tmp_path / "model")
    lines(tmp_path / "unlearn.jsonl", {"text": "the number 1 is 7"})
    lines(tmp_path / "update.jsonl", {"prompt": "the number 1", "answer": " is 8"})
    lines(tmp_path / "retain.jsonl", {"text": "the number 2 is 1"})
    lines(tmp_path / "questions.jsonl", QUESTION)
    names = ("unlearn", "update", "retain", "questions")
    data = {name: str(tmp_path / f"{name}.jsonl") for name in names}
    return tmp_path, plain_surgery(model=str(tmp_path / "model"), data=data, steps=1)


def rewritten(file: str, old: str, new: str):
    def change(folder: pathlib.Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return change


def with_another_weight(folder: pathlib.Path) -> None:
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, file, {"format": "pt"})


CHANGES = {
    "words of as many tokens": (
        "config.data.unlearn",
        rewritten("unlearn.jsonl", "1 is 7", "7 is 1"),
    ),
    "what is learned of the same tokens": (
        "config.data.update",
        rewritten("update.jsonl", '1", "answer": " is', '1 is", "answer": "'),
    ),
    "retained words": ("config.data.retain", rewritten("retain.jsonl", "2", "3")),
    "a question": ("config.data.questions", rewritten("questions.jsonl", " 8", " 9")),
    "one weight": ("config.model", with_another_weight),
    "a constant": (
        "config.model",
        rewritten("model/config.json", "10000.0", "10001.0"),
    ),
    "the tokenizer": (
        "config.model",
        rewritten("model/tokenizer_config.json", "{", '{"chat_template": "{{ 1 }}",'),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_does_not_go_on_with_other_data_or_another_model(
    roles, stops_early, change
):
    folder, settings = roles
    field, harm = CHANGES[change]
    for _ in range(2):
        with pytest.raises(Stop):
            surgery.run(settings, str(folder / "run"))
    harm(folder)
    with pytest.raises(ValueError, match=f"^{field} has changed since the run in"):
        surgery.run(settings, str(folder / "run"))
    with pytest.raises(Stop):
        surgery.run(settings, str(folder / "another"))


def test_a_model_in_other_shards_is_the_same(roles, stops_early, tiny_model):
    folder, settings = roles
    with pytest.raises(Stop):
        surgery.run(settings, str(folder / "run"))
    saved = folder / "model"
    card = (saved / "config.json").read_bytes()
    hf_weights.save_model(
        tiny_model.params, tiny_model.config, str(saved), max_shard_bytes=4096
    )
    assert not (saved / "model.safetensors").exists()
    (saved / "config.json").write_bytes(card)
    with pytest.raises(Stop):
        surgery.run(settings, str(folder / "run"))


@pytest.mark.skipif(not CASE.exists(), reason="the users' cases are not here")
def test_the_case_of_a_text_with_as_many_tokens(tmp_path, stops_early):
    shutil.copy(CASE / "before.jsonl", tmp_path / "forget.jsonl")
    data = {name: str(CASE / f"{name}.jsonl") for name in ("update", "retain")}
    data |= {"unlearn": str(tmp_path / "forget.jsonl"), "context": 64}
    settings = plain_surgery(model=str(CASE / "model"), data=data, steps=1)
    with pytest.raises(Stop):
        surgery.run(settings, str(tmp_path / "run"))
    shutil.copy(CASE / "after.jsonl", tmp_path / "forget.jsonl")
    with pytest.raises(ValueError, match="config.data.unlearn has changed since"):
        surgery.run(settings, str(tmp_path / "run"))


def test_a_task_that_changed_is_refused(tiny_model, tmp_path, stops_early):
    lines(tmp_path / "a.jsonl", {"prompt": "the number 1 is", "answer": " 7"})
    lines(tmp_path / "b.jsonl", {"prompt": "the number 2 is", "answer": " 1"})
    lines(
        tmp_path / "tasks.jsonl",
        *({"name": n, "data": str(tmp_path / f"{n}.jsonl")} for n in "ab"),
    )
    settings = settings_of(
        "unlearn",
        model=tiny_model.folder,
        tasks={"source": str(tmp_path / "tasks.jsonl"), "targets": "a", "context": 32},
    )
    for _ in range(2):
        with pytest.raises(Stop):
            surgery.run(settings, str(tmp_path / "run"))
    rewritten("b.jsonl", " 1", " 9")(tmp_path)
    with pytest.raises(ValueError, match="^the task 'b' of config.tasks.source has"):
        surgery.run(settings, str(tmp_path / "run"))


def test_pretraining_does_not_go_on_with_other_text(tmp_path):
    lines(tmp_path / "text.jsonl", {"text": "one two"}, {"text": "three"})
    lines(tmp_path / "words.jsonl", {"text": "one two three"})
    settings = settings_of(
        "pretrain",
        {
            "data.train": str(tmp_path / "text.jsonl"),
            "data.questions": "",
            "new_model.tokenizer_texts": str(tmp_path / "words.jsonl"),
        },
    )
    directory = str(tmp_path / "run")
    for _ in range(2):
        pretrain.read(settings, directory)
    rewritten("words.jsonl", "three", "seven")(tmp_path)
    with pytest.raises(
        ValueError, match="config.new_model.tokenizer_texts has changed"
    ):
        pretrain.read(settings, directory)
    rewritten("text.jsonl", "three", "seven")(tmp_path)
    with pytest.raises(ValueError, match="config.data.train has changed"):
        pretrain.read(settings, directory)


def test_a_text_that_is_also_the_tokenizers_is_hashed_once(tmp_path, monkeypatch):
    lines(tmp_path / "text.jsonl", {"text": "one two"})
    fields = {"data.train": str(tmp_path / "text.jsonl"), "data.questions": ""}
    settings = settings_of("pretrain", fields | {"new_model.tokenizer_texts": ""})
    hashed, of_records = [], identity.of_records

    def counted(records):
        hashed.append(list(records))
        return of_records(records)

    monkeypatch.setattr(identity, "of_records", counted)
    found = pretrain.read(settings, str(tmp_path / "run"))
    assert found.tokenizer_texts == found.texts
    assert hashed == [found.texts, []]


def test_a_model_fitted_to_other_text_is_not_taken(
    tiny_model, tmp_path, monkeypatch, capsys
):
    """The fit is finished, the surgery not begun, and TOFU's files change."""
    fits = []

    def run(settings, directory):
        fits.append(directory)
        pretrain.read(settings, directory)
        target = pathlib.Path(directory) / "model"
        shutil.copytree(tiny_model.folder, target, dirs_exist_ok=True)
        (pathlib.Path(directory) / "results.json").write_text("{}")
        return {"directory": f"{directory}/model"}

    monkeypatch.setattr(pretrain, "run", run)
    pairs = [{"question": f"Who is A{i}?", "answer": f"A{i}."} for i in range(4)]
    for name in ("full", "forget05", "retain95", "holdout05"):
        lines(tmp_path / f"{name}.jsonl", *pairs)
    (tmp_path / "idk.txt").write_text("".join(f"No {i}.\n" for i in range(99)))
    settings = settings_of("tofu", {"data.dir": str(tmp_path)})
    directory = str(tmp_path / "run")
    for _ in range(2):
        assert tofu.fit(settings, directory) == f"{directory}/fit/model"
    assert len(fits) == 1
    cut(tmp_path / "run" / "fit" / "model" / "model.safetensors")
    tofu.fit(settings, directory)
    assert len(fits) == 2
    assert "the fitted model is exported again" in capsys.readouterr().out
    rewritten("full.jsonl", "A3.", "B3.")(tmp_path)
    with pytest.raises(ValueError, match="train has changed since"):
        tofu.fit(settings, directory)
