# SPDX-License-Identifier: Apache-2.0
"""Every attack of the table: deterministic, its budget counted and never exceeded."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings_cases import config_of

from jax_surgery import attacks
from jax_surgery.attacks import ATTACKS, Budget, Target
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.models.model import Model
from jax_surgery.runs import start

CONTEXT = 32
# Options that make an attack small.
OPTIONS = {
    "relearning": "steps=4,rows=2",
    "hints": "shots=1+2+3",
    "samples": "answers=1+2+3",
    "linear_probe": "facts=20",
}
NO_LIMIT = Budget()


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


@pytest.fixture(scope="module")
def target(tiny_model, model) -> Target:
    read = [parse_record({"text": t}, f"a:{i}") for i, t in enumerate(tiny_model.texts)]
    rows = [
        {"prompt": f"the number {i} is", "answer": f" {i * 7 % 13}"} for i in range(32)
    ]
    facts = [parse_record(row, f"b:{i}") for i, row in enumerate(rows)]
    ask = lambda records: Probe(
        "rest", CONTEXT, records=tuple(records), metrics=("likelihood",)
    )
    return Target(
        tuple(read),
        (ask(facts[:6]),),
        CONTEXT,
        known=lambda: (ask(facts[6:]),),
        reworded=(ask(facts[3:6]),),
        before=lambda: model.with_params(jax.tree.map(jnp.negative, model.params)),
    )


def attacked(name, model, target, budget=NO_LIMIT, seed=0):
    """What the attack gives; what it had spent whenever it could be watched, and what it
    had found by itself then."""
    seen, read = [], []
    attack = attacks.parse(f"{name}:{OPTIONS.get(name, '')}")

    def watch(spent, model, found=None, **_):
        seen.append(dataclasses.astuple(spent))
        read.append(found)

    return attack(model, target, budget, seed, watch), seen, read


def leaves(model: Model) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(model.params)]


def equal(one: Model, other: Model) -> bool:
    return all(map(np.array_equal, leaves(one), leaves(other)))


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seed_gives_the_same_attack(name, model, target):
    before = leaves(model)
    one, seen, found = attacked(name, model, target)
    again, seen_again, found_again = attacked(name, model, target)
    assert equal(one.model, again.model) and seen == seen_again
    assert found == found_again
    assert [p.records for p in one.probes] == [p.records for p in again.probes]
    # The model that is attacked stays as it is.
    assert all(map(np.array_equal, before, leaves(model)))
    changed = not equal(one.model, model) or one.probes != target.probes
    assert changed != any(found)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_spent_is_counted_from_nothing_on(name, model, target):
    found, seen, _ = attacked(name, model, target)
    assert seen[0] == (0, 0, 0.0)
    assert all(a <= b for x, y in itertools.pairwise(seen) for a, b in zip(x, y))
    assert seen[-1] == dataclasses.astuple(found.spent)
    assert found.spent.steps == len(seen) - 1


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("field", ["steps", "tokens", "flops"])
def test_no_more_is_spent_than_the_budget(name, field, model, target):
    whole, seen, _ = attacked(name, model, target)
    all_of_it = getattr(whole.spent, field)
    if not all_of_it or len(seen) < 4:
        pytest.skip(f"{name} spends no {field}, or takes fewer than three steps")
    place = [f.name for f in dataclasses.fields(Budget)].index(field)
    second = seen[2][place]
    found, *_ = attacked(name, model, target, Budget(**{field: second}))
    assert getattr(found.spent, field) == second < all_of_it
    less, *_ = attacked(name, model, target, Budget(**{field: second - 1}))
    assert getattr(less.spent, field) == seen[1][place]


def test_a_budget_is_not_negative():
    with pytest.raises(ValueError, match=r"config.budget.steps=-1 .* 0 sets no limit"):
        Budget(steps=-1)


def test_an_attack_without_steps_is_asked_before_and_after(tiny_model, tmp_path):
    file = tmp_path / "removed.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_model.texts))
    fields = {"model": tiny_model.folder, "benchmark": "", "measure_at": "1"}
    fields |= {"data.relearn": str(file), "data.context": CONTEXT}
    fields |= {"attack": "outside_plugins.Coarse", "metrics": "nats_per_token"}
    start.start(config_of("attack", fields), str(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    before, after = (p["groups"]["relearn"]["nats_per_token"] for p in results["curve"])
    fields["attack"] = "relearning:steps=1,rows=2"
    start.start(config_of("attack", fields), str(tmp_path / "other"))
    other = json.loads((tmp_path / "other" / "results.json").read_text())
    assert before == other["curve"][0]["groups"]["relearn"]["nats_per_token"] != after


def test_an_attack_from_outside_passes_through_the_program(tiny_model, tmp_path):
    file = tmp_path / "removed.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_model.texts))
    fields = {
        "model": tiny_model.folder,
        "benchmark": "",
        "attack": "outside_plugins.Noise:scale=0.5",
        "metrics": "nats_per_token,outside_plugins.WORST_TEXT",
        "data.relearn": str(file),
        "data.context": CONTEXT,
        "measure_at": "1,2",
        "budget.steps": 2,
    }
    start.start(config_of("attack", fields), str(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["shown"] == 6 and results["spent"]["steps"] == 2
    assert [point["steps"] for point in results["curve"]] == [0, 1, 2]
    values = [p["groups"]["relearn"]["worst_text"]["value"] for p in results["curve"]]
    assert len(set(values)) == 3
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "outside_plugins.Noise" in page and "worst text" in page
