# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness on a model in memory: its requests, its tasks, its own numbers."""

import importlib.util
import json
import pathlib
import types

import on_devices
import pytest
from settings_cases import config_of, settings_of

from jax_surgery.metrics import requests
from jax_surgery.models.model import Model
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.runs import harness, start
from jax_surgery.train import devices

ROOT = pathlib.Path(__file__).parents[2]
TASKS = ROOT / "tests" / "harness_tasks"
FILES = ",".join(
    str(TASKS / f"towns_{kind}.yaml") for kind in ("choice", "text", "reply")
)
installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed (extra lm-eval)",
)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
    """Where the task files' paths begin."""
    monkeypatch.chdir(ROOT)


def given(tiny_model, **fields):
    found = {"model": tiny_model.folder, "tasks": FILES, "log_samples": True}
    # So that texts are longer than what the model reads.
    return found | {"max_length": 48} | fields


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"tasks": " , "}, "config.tasks is empty; name tasks"),
        ({"num_fewshot": -2}, "config.num_fewshot=-2; use -1 or more"),
        ({"limit": -1.0}, "config.limit=-1.0; use 0 or more"),
        ({"max_length": -1}, "config.max_length=-1; use 0 or more"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        settings_of("lm_eval", fields)


def test_a_missing_harness_is_named(monkeypatch, tmp_path, tiny_model):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    settings = settings_of("lm_eval", given(tiny_model))
    with pytest.raises(ValueError, match=r"pip install 'jax-surgery\[lm-eval\]'"):
        harness.run(settings, str(tmp_path))


def adapter(tiny_model, max_length: int = 48):
    from jax_surgery.metrics.harness import Harness

    model = Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)
    return Harness(model, max_length)


def requests_of(*args):
    return [types.SimpleNamespace(args=one) for one in args]


@installed
def test_the_adapter_scores_texts_with_and_without_a_context(tiny_model):
    lm, tokenizer = adapter(tiny_model), tiny_model.tokenizer
    whole = "the number 1 is 7"
    [rolling] = lm.loglikelihood_rolling(requests_of((whole,)))
    empty, split, moved = lm.loglikelihood(
        requests_of(("", whole), ("the number 1", " is 7"), ("the number 1 ", "is 7"))
    )
    # A text that does not say its bos gets it, however it is asked for.
    ids = tokenizer.encode(whole, add_special_tokens=False)
    [(alone, _)] = requests.score_continuations(
        lm.model, [([tokenizer.bos_token_id], ids)], 48
    )
    assert empty[0] == pytest.approx(alone, rel=1e-5)
    assert split == moved and split[0] > empty[0]
    own = lm.tok_encode(whole)
    assert lm.tok_encode(tokenizer.bos_token + whole) == [tokenizer.bos_token_id, *ids]
    windows = [([tokenizer.bos_token_id], own)]
    [(wanted, _)] = requests.score_continuations(lm.model, windows, 48)
    assert rolling == pytest.approx(wanted, rel=1e-5)
    # In windows every token is asked for once.
    long = adapter(tiny_model, 4).loglikelihood_rolling(requests_of((whole,)))
    assert long[0] < 0 and long[0] != rolling


@installed
def test_the_adapter_writes_up_to_what_ends_a_reply(tiny_model):
    lm = adapter(tiny_model)
    how = {"max_gen_toks": 12, "until": []}
    [whole] = lm.generate_until(requests_of(("the number 1", how)))
    stop = whole[4:6]
    cut, other = lm.generate_until(
        requests_of(
            ("the number 1", how | {"until": [stop]}),
            ("the number 1", how | {"do_sample": True, "temperature": 2.0}),
        )
    )
    assert cut == whole.split(stop)[0] and stop in whole
    assert isinstance(other, str)


@installed
@pytest.mark.parametrize(
    "options, message",
    [
        ({"top_k": 3}, "asks for generation with top_k=3; of do_sample"),
        ({"max_gen_toks": 48}, "asks for 48 new tokens, and config.max_length=48"),
    ],
)
def test_what_a_task_asks_in_vain_is_named(tiny_model, options, message):
    with pytest.raises(ValueError, match=message):
        adapter(tiny_model).generate_until(requests_of(("the number", options)))


@installed
def test_a_chat_template_is_the_tokenizers(tiny_model):
    lm, asked = adapter(tiny_model, 0), [{"role": "user", "content": "the number 1"}]
    text = lm.apply_chat_template(asked)
    assert "the number 1" in text and text == tiny_model.tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    )
    assert lm.max_length == tiny_model.config.max_positions


@installed
@pytest.mark.slow
def test_tasks_are_asked_through_the_program(tiny_model, tmp_path, capsys):
    start.start(config_of("lm_eval", given(tiny_model)), str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["results"]) == {"towns_choice", "towns_text", "towns_reply"}
    assert 0 <= results["results"]["towns_choice"]["acc,none"] <= 1
    assert results["results"]["towns_text"]["word_perplexity,none"] > 1
    rows = (tmp_path / "samples" / "towns_reply.jsonl").read_text().splitlines()
    assert len(rows) == 4 and "er 1" not in json.loads(rows[0])["resps"][0][0]
    assert "|towns_choice|" in capsys.readouterr().out.replace(" ", "")


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["no_such_task", "no.yaml"])
def test_unknown_tasks_are_named(tiny_model, tmp_path, name):
    settings = settings_of("lm_eval", given(tiny_model, tasks=name))
    with pytest.raises(ValueError, match=f"config.tasks='{name}': Tasks not found"):
        harness.run(settings, str(tmp_path))


def of_backend(folder: str, settings: harness.HarnessSettings) -> dict:
    """What the harness's own Hugging Face backend says of an exported model."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    tasks, manager = harness.load_tasks(settings)
    model = HFLM(
        folder,
        device="cpu",
        dtype="float32",
        max_length=settings.max_length,
        batch_size=2,
    )
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=manager,
        fewshot_random_seed=settings.seed,
    )
    assert found is not None
    return found


@installed
@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("torch", "accelerate"))),
    reason="the harness's Hugging Face backend needs torch and accelerate",
)
@pytest.mark.parametrize("name", ["tiny", "embedded"])
def test_it_gives_what_the_hugging_face_backend_gives(tiny_model, name):
    from jax_surgery.benchmarks import embedded

    folder = tiny_model.folder if name == "tiny" else str(embedded.MODEL)
    settings = settings_of("lm_eval", given(tiny_model, model=folder))
    tasks, manager = harness.load_tasks(settings)
    with devices.on_mesh(MeshShape()):
        model = devices.load(folder, settings.compute)
        found = harness.evaluate(model, settings, tasks, manager)
    wanted = of_backend(folder, settings)
    for task, scores in wanted["results"].items():
        for metric, value in scores.items():
            if isinstance(value, float):
                own = found["results"][task][metric]
                assert own == pytest.approx(value, rel=1e-4, abs=1e-7), (task, metric)
    for task, rows in wanted["samples"].items():
        key = lambda row: row["doc_id"]
        pairs = zip(
            sorted(rows, key=key), sorted(found["samples"][task], key=key), strict=True
        )
        for theirs, ours in pairs:
            assert ours["arguments"] == theirs["arguments"]
            _same(ours["resps"], theirs["resps"])


def _same(ours, theirs) -> None:
    """Replies and log-likelihoods that are equal, these up to rounding."""
    if isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            _same(one, other)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    else:
        assert ours == theirs


SHARDED = """
import json
from settings_cases import settings_of
from jax_surgery import benchmarks
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.runs import harness
from jax_surgery.train import devices
settings = settings_of("lm_eval", json.loads({fields!r}))
tasks, manager = harness.load_tasks(settings)
with devices.on_mesh(MeshShape(*{mesh})):
    model = devices.load(benchmarks.model_source(settings.model), settings.compute)
    found = harness.evaluate(model, settings, tasks, manager)
print(json.dumps([found["results"], found["samples"]], default=str))
"""


@installed
@pytest.mark.slow
def test_it_is_sharded_over_the_mesh(tiny_model):
    fields = json.dumps(given(tiny_model, model="embedded"))
    found = []
    for count, mesh in ((1, (1, 1, 1)), (8, (2, 2, 2))):
        code = SHARDED.format(fields=fields, mesh=mesh)
        found.append(json.loads(on_devices.run(code, count).splitlines()[-1]))
    for task, scores in found[0][0].items():
        for metric, value in scores.items():
            if isinstance(value, float):
                assert found[1][0][task][metric] == pytest.approx(value, rel=1e-4)
    for task in found[0][1]:
        replies = [[row["resps"] for row in one[1][task]] for one in found]
        _same(*replies)
