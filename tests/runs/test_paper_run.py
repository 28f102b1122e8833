# SPDX-License-Identifier: Apache-2.0
"""The authors' run on small files of their schema: theta_pre, baseline, surgery, questions."""

import json

import jax
import numpy as np
import paper_files
import pytest
from quick_cases import few_of
from settings_cases import plain_surgery, settings_of

from jax_surgery.benchmarks import paper
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.bpe import train_bpe
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.runs import surgery
from jax_surgery.train.metrics_file import read_metrics

SMALL = {"compute.dtype": "float32", "compute.remat": "none", "data.context": 96}
GROUPS = [*paper.ROLES, "general"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The authors' files, small, with one malformed cell."""
    folder = paper_files.write(tmp_path_factory.mktemp("paper"))
    rows = paper_files.bios()
    rows[6]["wiki_bio_text_qa"] = "[{'Q': 'half a"
    paper_files.save(folder / paper.BIOS, rows)
    return folder


@pytest.fixture(scope="module")
def base(files, tmp_path_factory):
    """The off-the-shelf model: random weights, and a tokenizer of the files."""
    folder = str(tmp_path_factory.mktemp("base"))
    texts = [t for row in paper_files.bios() for t in row.values()]
    tokenizer = train_bpe(texts, 400)
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = ModelConfig(len(tokenizer), 32, 64, 2, 2, 2, 16, **ids)
    hf_weights.save_model(decoder.init_params(config, 0), config, folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(name, directory, files, **fields):
    given = SMALL | {"data.paper": str(files), "loop.evaluate_every": 0} | fields
    surgery.run(settings_of(name, given), str(directory))
    return json.loads((directory / "results.json").read_text())


def accuracy(entry):
    return {group: found["accuracy"] for group, found in entry.items()}


@pytest.mark.slow
def test_continued_pretraining_baseline_and_surgery_end_to_end(files, base, tmp_path):
    """What theta_pre has read it answers; the surgery begins there, and is anchored at the
    off-the-shelf model; the baseline reads the replacements alone."""
    learns = {"model": base, "steps": 150, "optimizer.learning_rate": 1e-2}
    read = {
        "pre": "paper:problematic,paper:obsolete,paper:retain",
        "baseline": "paper:update,paper:retain",
    }
    found = {}
    for name, sources in read.items():
        fields = learns | {"data.update": sources}
        paper.questions_of.cache_clear()
        with pytest.warns(UserWarning, match="1 of 13 cells .*row 7, wiki_bio_text_qa"):
            found[name] = run("paper_pretrain", tmp_path / name, files, **fields)
        assert found[name]["roles"]["update"]["after"]["nll_per_token"] < 0.5
    pre, baseline = (accuracy(found[name]["after"]) for name in read)
    assert min(pre["obsolete"], pre["problematic"], baseline["update"]) > 0.8
    assert max(pre["update"], baseline["obsolete"]) < 0.7
    fields = {"model": str(tmp_path / "pre"), "reference_model": base}
    fields |= {"steps": 12, "optimizer.learning_rate": 3e-4, "attacks": "quantisation"}
    found["surgery"] = run("paper", tmp_path / "surgery", files, **fields)
    for one in found.values():
        assert set(one["after"]) == set(GROUPS)
        assert (
            one["after"]["update"]["n"] == 8 and one["after"]["problematic"]["n"] == 6
        )
        assert one["after"]["retain"]["chance"] == pytest.approx(1 / 3)
        assert one["after"]["general"]["chance"] == 0.25
    roles = found["surgery"]["roles"]
    moved = {
        r: v["after"]["nll_per_token"] - v["before"]["nll_per_token"]
        for r, v in roles.items()
    }
    assert moved["update"] < 0 < moved["unlearn"]
    assert found["surgery"]["group_roles"] == paper.ROLES | {"general": ""}
    assert found["surgery"]["attacks"]
    # The anchor pulls towards a model that has not read the retained text.
    kl = [
        row["retain_kl"] for row in read_metrics(tmp_path / "surgery" / "metrics.jsonl")
    ]
    assert kl[0] > 1.0


def test_the_surgery_reads_the_published_files_with_the_authors_settings(
    files, base, tmp_path
):
    fields = {"model": base, "reference_model": base, "steps": 2, "attacks": ""}
    found = run("paper", tmp_path / "run", files, **fields)
    assert set(found["before"]) == set(GROUPS)
    assert set(found["roles"]) == {"unlearn", "update", "retain"}
    settings = found["settings"]
    assert settings["data"]["unlearn"].startswith(f"0.1*paper:problematic:{files}")
    optimizer, objective = settings["optimizer"], settings["objective"]
    assert (optimizer["learning_rate"], optimizer["b2"]) == (2e-4, 0.95)
    assert (optimizer["weight_decay"], optimizer["clip"]) == (0.01, 1.0)
    assert (objective["beta"], objective["gamma"]) == (2.0, 0.5)
    assert settings["seed"] == 42
    published = settings_of("paper", {"model": "m", "data.paper": "d"})
    assert (published.steps, published.data.context) == (120, 4096)
    assert published.compute.dtype == "bfloat16"
    [first, _] = read_metrics(tmp_path / "run" / "metrics.jsonl")
    # The reference is the very model that the run begins with.
    assert first["retain_kl"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("reference", few_of(["live", "cached"], ["cached"]))
def test_the_reference_model_is_the_one_that_is_named(
    tiny_model, write_texts, tmp_path, reference
):
    """KL at the first step is that to the other model, live and cached alike."""
    other = str(tmp_path / "other")
    moved = jax.tree.map(lambda x: 1.1 * x, tiny_model.params)
    hf_weights.save_model(moved, tiny_model.config, other)
    tiny_model.tokenizer.save_pretrained(other)
    fields = {
        "model": tiny_model.folder,
        "reference": reference,
        "reference_model": other,
        "objective.kl_direction": "reference_to_model",
        "data.average": "tokens",
        "data.unlearn": write_texts("unlearn", tiny_model.texts[:4]),
        "data.update": write_texts("update", tiny_model.texts[4:8]),
        "data.retain": write_texts("retain", tiny_model.texts[8:]),
        "data.rows_retain": 4,  # all of its text
        "steps": 1,
        "attacks": "",
    }
    surgery.run(plain_surgery(**fields), str(tmp_path / "run"))
    [first] = read_metrics(tmp_path / "run" / "metrics.jsonl")
    logp = []
    for params in (moved, tiny_model.params):
        rows = []
        for text in tiny_model.texts[8:]:
            ids = tiny_model.tokenizer(text, add_special_tokens=False).input_ids
            ids = [
                tiny_model.tokenizer.bos_token_id,
                *ids,
                tiny_model.tokenizer.eos_token_id,
            ]
            tokens = np.array([ids])
            one, place = np.ones_like(tokens), np.arange(len(ids))[None]
            hidden = decoder.forward(params, tiny_model.config, tokens, one, place)
            logits = hidden @ params["head"]["kernel"]
            rows.append(jax.nn.log_softmax(logits)[0])
        logp.append(np.concatenate(rows))
    wanted = (np.exp(logp[0]) * (logp[0] - logp[1])).sum(-1).mean()
    assert wanted > 1e-3
    np.testing.assert_allclose(first["retain_kl"], wanted, rtol=2e-2)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"data.paper": ""}, "config.data.unlearn='.*' names the paper's files"),
        ({"model": ""}, "config.model is empty"),
        (
            {"lora.rank": 4},
            "config.lora.rank above 0 the reference is the model before",
        ),
        (
            {"reference": "cached", "optimizer.first_layer": 1},
            "what is cached below that layer is the model's own",
        ),
    ],
)
def test_what_the_authors_run_needs_is_asked_for(fields, words, files, base, tmp_path):
    with pytest.raises(ValueError, match=words):
        run("paper", tmp_path / "run", files, **{"model": base} | fields)


def test_a_reference_of_another_architecture_is_refused(
    files, base, tiny_model, tmp_path
):
    fields = {"model": base, "reference_model": tiny_model.folder}
    with pytest.raises(ValueError, match="has vocab_size=.* of the same architecture"):
        run("paper", tmp_path / "run", files, **fields)


def test_the_embedded_benchmark_has_sets_of_these_names():
    fields = {"model": "embedded", "data.paper": "embedded", "reference_model": ""}
    data = settings_of("paper", fields).data.located
    assert data.unlearn == "0.1*embedded:problematic,0.1*embedded:obsolete"
    assert (data.update, data.questions) == ("embedded:update", "embedded")
    assert data.located == data
