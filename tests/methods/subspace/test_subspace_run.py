# SPDX-License-Identifier: Apache-2.0
"""The run `unlearn` from its config to what it leaves: the suite's tasks and a user's."""

import json
import re
import types

import numpy as np
import pytest
from plain_settings import plain_compute
from settings_cases import settings_of
from subspace_run_cases import ROUNDS, edit_of, go, work_of

from jax_surgery.benchmarks import suite
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.probes import Probe
from jax_surgery.edits import apply
from jax_surgery.methods.subspace import overlap, text
from jax_surgery.methods.subspace import stage as stages
from jax_surgery.methods.subspace.work import Work
from jax_surgery.metrics import answer_accuracy
from jax_surgery.models import decoder, output_head
from jax_surgery.models.model import Model
from jax_surgery.report import one_by_one, task_results
from jax_surgery.runs import by_tasks
from jax_surgery.train.metrics_file import read_metrics

OPTIMISED = True  # see conftest
pytestmark = pytest.mark.usefixtures("mesh")


@pytest.fixture(scope="module")
def removed(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_results, "ALPHAS", (0.0, 1.0))
        patch.setattr(overlap, "RANK", 2)
        patch.setattr(Work, "RECORDS", 100)
        return go(folder / "removed"), folder / "removed"


def test_the_target_goes_and_all_others_stay(removed):
    tasks = removed[0]["tasks"]
    assert list(tasks) == list(suite.TASKS)
    roles = {role: {n for n, t in tasks.items() if t["role"] == role}
             for role in ("target", "similar", "other", "unknown")}  # fmt: skip
    assert roles["target"] == {"dict_a"} and roles["similar"] == {"dict_b"}
    assert roles["unknown"] == {"dict_c", "people_c"}
    assert (
        tasks["dict_a"]["before"]["value"] == 1 and tasks["dict_a"]["removed"] >= 0.96
    )
    assert tasks["dict_b"]["drop"] <= 0.05
    assert len(roles["other"]) == 14
    assert max(tasks[name]["drop"] for name in roles["other"]) <= 0.02


def test_results_have_their_keys(removed):
    results, workdir = removed
    assert set(results) == {
        "run", "tasks", "alpha", "curve", "overlaps", "seconds", "change_norm",
        "settings", "versions", "attacks", "verdict", "excess",
    }  # fmt: skip
    target = results["tasks"]["dict_a"]
    assert set(target) == {"role", "goal", "before", "after", "removed", "drop"}
    assert set(target["after"]) == {"value", "interval", "n", "exact", "chance"}
    assert (target["goal"], target["drop"]) == ("chance", None)
    assert results["tasks"]["add"]["goal"] == "keep"
    assert results["tasks"]["dict_c"] | {"before": 0, "after": 0} == {
        "role": "unknown", "goal": "", "before": 0, "after": 0, "removed": None,
        "drop": None,
    }  # fmt: skip
    assert len(results["seconds"]) == 1 and 0.01 < results["change_norm"] < 0.1
    squares = np.array(results["overlaps"]["mean_squared_cosine"])
    np.testing.assert_allclose(squares, squares.T, atol=1e-5)
    np.testing.assert_allclose(np.diag(squares), 1, atol=1e-5)
    config = json.loads((workdir / "config.json").read_text())
    assert results["settings"] == config


def test_what_each_text_scored_is_kept(removed):
    """The mean over a task's texts is its score, and runs can be compared in pairs."""
    results, workdir = removed
    found = one_by_one.read(str(workdir))
    for name, task in results["tasks"].items():
        own = [(key, a.value) for key, a in found.items() if key[0] == name]
        assert len(own) == task["after"]["n"]
        assert len({key[1] for key, _ in own}) == 1
        # Of texts of other lengths the mean over tokens is a little different.
        mean = np.mean([value for _, value in own])
        assert mean == pytest.approx(task["after"]["value"], abs=0.02)


def test_the_curve_begins_at_the_model_as_it_came_and_ends_at_the_export(removed):
    first, last = removed[0]["curve"]
    assert (first["alpha"], last["alpha"]) == (0, 1)
    assert first["removed"] == {"dict_a": 0}
    assert set(first["drop"].values()) == {0}
    assert last["removed"]["dict_a"] > 0.9 and max(last["drop"].values()) < 0.1
    assert "dict_c" not in last["scores"] and "dict_b" in last["drop"]


def test_the_page_holds_the_pictures(removed):
    page = (removed[1] / "report" / "index.html").read_text()
    for title in ("Along alpha", "How much tasks overlap", "Spectra"):
        assert title in page
    # Three of the removal, and one of each attack that is mounted after it.
    assert page.count("<svg") == 3 + 3 and "Under attack" in page
    assert "dict_a (target)" in page and "dict_b (similar)" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def logits_of(params, config, tokens):
    hidden = decoder.forward(params, config, tokens, compute=plain_compute())
    return np.asarray(hidden @ output_head.kernel(params))


def test_transformers_loads_the_model_and_says_the_same(removed):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = str(removed[1] / "model")
    tokenizer = hf_weights.load_tokenizer(model)
    rows = [suite.load(name)[i] for name in ("dict_a", "dict_b") for i in range(20)]
    tokens = np.array(
        [tokenizer.encode(row["prompt"] + row["answer"]) for row in rows], np.int32
    )
    params, config = hf_weights.load_model(model)
    own = logits_of(params, config, tokens)
    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        found = theirs(torch.tensor(tokens, dtype=torch.int64)).logits.numpy()
    np.testing.assert_array_equal(own.argmax(-1), found.argmax(-1))
    # And the target is forgotten there too.
    right = found[:, -2].argmax(-1) == tokens[:, -1]
    assert right[:20].mean() <= 0.1 and right[20:].mean() >= 0.9


def test_the_edit_makes_the_model_of_the_model_as_it_came(removed, tmp_path):
    workdir = removed[1]
    edit = edit_of(workdir)
    apply.apply(edit, suite.MODEL, tmp_path / "again")
    name = "model.safetensors"
    made = (tmp_path / "again" / name).read_bytes()
    assert made == (workdir / "model" / name).read_bytes()
    assert made != (suite.MODEL / name).read_bytes()
    assert edit.scale == removed[0]["alpha"] == 1
    [stage] = edit.provenance["stages"]
    assert stage["targets"] == ["dict_a"] and stage["similar"] == ["dict_b"]
    assert "add" in stage["kept"] and re.fullmatch("[0-9a-f]{64}", stage["statistics"])


# A user's own tasks: the statistics cached, the run stopped.


@pytest.fixture(scope="module")
def whole(folder, own):
    fields = {"statistics.cache": str(folder / "cache"), **own}
    return go(folder / "whole", **fields), folder / "whole"


def test_a_users_tasks_are_read_scored_and_kept(whole):
    tasks = whole[0]["tasks"]
    assert {name: task["role"] for name, task in tasks.items()} == {
        "dict_a": "target", "dict_b": "similar", "dict_c": "unknown",
        "people_a": "other", "people_b": "other", "quiz": "other",
    }  # fmt: skip
    assert tasks["dict_a"]["removed"] >= 0.96
    kept = ("dict_b", "people_a", "people_b", "quiz")
    assert max(tasks[name]["drop"] for name in kept) <= 0.05
    assert tasks["quiz"]["before"]["chance"] == 0.25
    assert tasks["quiz"]["before"]["value"] == 1 and tasks["quiz"]["before"]["n"] == 40
    assert whole[0]["curve"] == [] and whole[0]["overlaps"] == {}


def test_a_target_that_is_not_known_is_refused_before_anything(folder, own):
    workdir = folder / "unknown"
    with pytest.raises(ValueError, match="does not know the target 'dict_c'") as error:
        go(workdir, **own | {"tasks.targets": "dict_a;dict_c"})
    assert "known from 10% of what there is beyond chance" in str(error.value)
    assert not workdir.exists()


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"tasks.targets": "dict_z"}, "names 'dict_z'; the tasks of .* are dict_a, "),
        ({"tasks.targets": " ;, "}, "names no task to remove or add"),
        ({"tasks.targets": "dict_a;dict_a"}, "names 'dict_a' twice"),
        ({"tasks.similar": "dict_z"}, "config.tasks.similar names 'dict_z'"),
        ({"tasks.similar": "dict_a"}, "config.tasks.similar names the target"),
        ({"rounds.first_layer": 9}, "^config.rounds.first_layer=9: the model has"),
    ],
)
def test_wrong_tasks_are_told_before_the_model_is_loaded(
    folder, own, fields, words, monkeypatch
):
    monkeypatch.setattr(
        by_tasks.devices, "load_model", lambda *a: pytest.fail("was loaded")
    )
    with pytest.raises(ValueError, match=words):
        go(folder / "wrong", **own | fields)
    assert not (folder / "wrong").exists()


@pytest.mark.slow
def test_stages_go_one_after_another_and_alpha_is_sought(folder, own):
    fields = {"tasks.targets": "people_a;dict_a", "tasks.similar": "overlap"}
    fields |= {"rounds.stop": 0.5, "rounds.alpha": 0.0}
    results = go(folder / "two", **own | fields)
    tasks, made = results["tasks"], results["alpha"]
    gone = {n: t["removed"] for n, t in tasks.items() if t["role"] == "target"}
    assert set(gone) == {"dict_a", "people_a"}
    # The smallest that does: one has just reached it (but for the file's rounding).
    assert 0.45 <= min(gone.values()) < 0.6 and 0.5 < made <= 1
    similar = {n for n, t in tasks.items() if t["role"] == "similar"}
    assert similar == {"dict_b", "people_b"}  # by angles: nobody named a family
    assert max(t["drop"] for t in tasks.values() if t["drop"] is not None) <= 0.05
    steps = [len(read_metrics(folder / "two" / "stages" / n / "metrics.jsonl"))
             for n in "12"]  # fmt: skip
    assert len(results["seconds"]) == 2 and all(0 < s < ROUNDS for s in steps)
    assert edit_of(folder / "two").scale == made


@pytest.mark.parametrize("mode, largest", [("rounds", 1.0), ("one_shot", 4.0)])
def test_alpha_is_the_smallest_for_the_targets_of_all_stages(
    monkeypatch, capsys, mode, largest
):
    asked = []

    class Goal:
        def __init__(self, stage):
            self.targets = tuple(stage.targets)

        def reached(self, params):
            asked.append(self.targets)
            return params >= least

    monkeypatch.setattr(stages, "Goal", Goal)

    def chosen(given=0.0):
        method = f"subspace:one_shot={mode == 'one_shot'}"
        fields = {"method": method, "rounds": {"alpha": given}}
        how = settings_of("unlearn", fields)
        of_run = types.SimpleNamespace(how=how)
        last = stages.Stage(of_run, None, ["b", "c"], [], set(), {}, "")
        names = ["a", "b", "c"]
        return stages.choose_alpha(last, names, None, lambda alpha: alpha)

    for least in (0.1, 0.7, 0.99 * largest):
        assert least <= chosen() < least + 4 / 2**10
    assert set(asked) == {("a", "b", "c")}
    least = 4.1
    assert chosen(0.3) == 0.3
    if mode == "one_shot":
        with pytest.raises(ValueError, match="no alpha up to 4.0 reaches config.rou"):
            chosen()
    else:
        assert chosen() == 1
        assert "not all of a, b, c reach config.rounds.stop" in capsys.readouterr().out


def test_overlap_of_tasks_is_measured_and_picks_the_similar(own):
    ours = work_of(own)
    names = ("dict_a", "dict_b", "people_a", "people_b")
    found = overlap.measure(ours, names)
    squares = dict(zip(names, found.squares[0], strict=True))
    assert squares["dict_a"] == pytest.approx(1, abs=1e-4)
    assert squares["dict_b"] > max(squares["people_a"], squares["people_b"]) + 0.05
    between = (squares["dict_b"] + squares["people_a"]) / 2
    assert found.similar_to(["dict_a"], squares["dict_b"]) >= {"dict_b"}
    assert found.similar_to(["dict_a"], 1.01) == set()
    assert found.similar_to(["dict_a"], 0.0) == set(names) - {"dict_a"}
    assert "dict_b" in found.similar_to(["dict_a"], between)


@pytest.mark.slow
def test_one_shot_subtracts_a_learned_task_once(folder, own):
    fields = {"method": "subspace:one_shot=True,loss=cross_entropy"}
    results = go(folder / "once", **own | fields | {"rounds.number": 4})
    tasks = results["tasks"]
    assert tasks["dict_a"]["removed"] > 0.9
    # The ridge keeps most of the others, though it moves far.
    assert tasks["dict_b"]["drop"] < 0.3 and tasks["people_a"]["drop"] < 0.1
    steps = read_metrics(
        folder / "once" / "stages" / "1" / "identify_target" / "metrics.jsonl"
    )
    assert len(steps) == 4


def test_gram_schmidt_without_similar_tasks_is_refused_with_the_fix(folder, own):
    fields = {"method": "subspace:discriminate=gram_schmidt", "tasks.similar": ""}
    with pytest.raises(ValueError, match="gram_schmidt needs groups similar to dict_a"):
        go(folder / "gs", **own | fields)


@pytest.mark.slow
def test_overwritten_answers_take_over(folder, own):
    results = go(folder / "over", **own | {"method": "subspace:overwrite=1"})
    assert results["tasks"]["dict_a"]["removed"] >= 0.96
    assert results["tasks"]["dict_b"]["drop"] <= 0.05
    ours = work_of(own)
    texts = text.overwritten(ours, "dict_a")
    # Each prompt has another's answer, and none its own; they come in another order.
    answer = lambda d: (d.tokens[:5].tobytes(), int(d.tokens[d.learned][0]))
    plain, others = (
        dict(map(answer, d)) for d in (ours.texts["dict_a"].documents, texts)
    )
    assert plain.keys() == others.keys() and len(plain) == 40
    assert sorted(plain.values()) == sorted(others.values())
    assert all(plain[prompt] != other for prompt, other in others.items())
    params, config = hf_weights.load_model(str(folder / "over" / "model"))
    model = Model(params, config, ours.model.tokenizer)

    def score(params, texts):
        probe = Probe("", 128, documents=tuple(texts))
        return answer_accuracy.METRIC(model.with_params(params), probe).value

    assert score(params, texts) >= 0.95
    assert score(ours.model.params, texts) == 0


@pytest.mark.slow
def test_what_was_removed_is_put_back(whole, folder, own):
    """By steps like those of the removal, at the full rank."""
    fields = {"model": str(whole[1] / "model"), "tasks.targets": "dict_a"}
    fields |= {"tasks.rows": 4, "rounds.step": 5e-3}
    fields["method"] = "subspace:loss=cross_entropy,temperature=1,refresh=3"
    tasks = go(folder / "back", "learn", **own | fields | {"rounds.rank": 0})["tasks"]
    assert tasks["dict_a"]["before"]["value"] <= 0.1
    assert tasks["dict_a"]["after"]["value"] >= 0.95
    assert all(t["drop"] <= 0.02 for t in tasks.values() if t["drop"] is not None)
