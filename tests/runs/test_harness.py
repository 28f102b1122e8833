# SPDX-License-Identifier: Apache-2.0
"""lm-evaluation-harness on a model in memory: its requests, its tasks, its own numbers."""

import importlib.util
import json
import pathlib

import on_devices
import pytest
from settings_cases import config_of, settings_of

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


@installed
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
@pytest.mark.parametrize(
    "fields, message",
    [
        ({"tasks": "no_such_task"}, "config.tasks='no_such_task': Tasks not found"),
        ({"tasks": "no.yaml"}, "Tasks not found"),
        ({"gen_kwargs": "top_k=3"}, "asks for generation with top_k=3; of do_sample"),
        ({"max_length": 40}, "asks for 40 new tokens, and config.max_length=40"),
    ],
)
def test_what_the_harness_asks_in_vain_is_named(tiny_model, tmp_path, fields, message):
    settings = settings_of("lm_eval", given(tiny_model) | fields)
    with pytest.raises(ValueError, match=message):
        harness.run(settings, str(tmp_path))


@installed
def test_a_chat_template_is_the_tokenizers(tiny_model):
    from jax_surgery.metrics.harness import Harness

    adapter = Harness(Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer))
    asked = [{"role": "user", "content": "the number 1"}]
    text = adapter.apply_chat_template(asked)
    assert "the number 1" in text and text == tiny_model.tokenizer.apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    )
    assert adapter.max_length == tiny_model.config.max_positions


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
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.runs import harness
from jax_surgery.train import devices
settings = settings_of("lm_eval", json.loads({fields!r}))
tasks, manager = harness.load_tasks(settings)
with devices.on_mesh(MeshShape(*{mesh})):
    model = devices.load(settings.model, settings.compute)
    found = harness.evaluate(model, settings, tasks, manager)
print(json.dumps([found["results"], found["samples"]], default=str))
"""


@installed
@pytest.mark.slow
def test_it_is_sharded_over_the_mesh(tiny_model):
    fields = json.dumps(given(tiny_model))
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
