# SPDX-License-Identifier: Apache-2.0
"""results/gpu_speed.py without a GPU: its weights, its texts, and a failed setting."""

import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def scripts(monkeypatch):
    """The folder results/ as its scripts see it."""
    monkeypatch.syspath_prepend(ROOT / "results")
    import gpu_cases
    import gpu_speed
    import gpu_weights

    return gpu_cases, gpu_speed, gpu_weights


def test_weights_are_alike_in_jax_and_pytorch(scripts):
    torch = pytest.importorskip("torch")
    weights = scripts[2]
    made = np.asarray(weights.for_jax("q", 2, (6, 2, 2), 0.02, "float32"))
    assert made.shape == (2, 6, 2, 2)
    for layer in range(2):
        found = weights.for_torch("q", layer, (6, 4), 0.02, torch.device("cpu"))
        np.testing.assert_array_equal(found.numpy().reshape(6, 2, 2), made[layer])
    assert not np.array_equal(made[0], made[1])
    many = np.asarray(weights.for_jax("up", 0, (100, 100), 0.02, "float32"))
    assert abs(many.std() - 0.02) < 1e-3 and abs(many.mean()) < 1e-3


def test_steps_hold_whole_texts_of_every_role(scripts):
    cases = scripts[0]
    case = cases.TINY[0]
    first, second = cases.batches(case)
    texts = cases.texts(case, first)
    assert set(texts) == {"unlearn", "update", "retain"}
    assert sum(len(t) for of in texts.values() for t, _ in of) == cases.useful_tokens(
        first
    )
    assert all(not learned[0] and learned[-1] for _, learned in texts["unlearn"])
    assert not np.array_equal(first.tokens_BT, second.tokens_BT)


def test_logits_that_no_term_reads_are_counted_apart(scripts):
    cases = scripts[0]
    for case in cases.TINY:
        batch = cases.batches(case)[0]
        counted, read = cases.useful_flops(case, batch)
        config = case.config
        roles = cases.texts(case, batch)
        unread = sum(len(t) for r in ("unlearn", "update") for t, _ in roles[r])
        unread -= sum(
            int(own.sum()) for r in ("unlearn", "update") for _, own in roles[r]
        )
        passes = 2 if case.rank else 3
        head = 2 * config.hidden_size * config.vocab_size
        np.testing.assert_allclose(counted - read, passes * head * unread)


class Answers:
    """A process that needs a tenth of a second a step; of some settings it fails."""

    def __init__(self, fails):
        self.fails = fails

    def send(self, message):
        del message

    def receive(self):
        return None

    def ask(self, message):
        choice, steps, _ = message
        if self.fails(choice):
            return {"failed": "out of memory"}
        terms = [[1.0, 2.0, 3.0]] * steps
        return {"seconds": 0.1 * steps, "terms": terms, "peak": 2**30}


def test_settings_that_fail_are_named_and_do_not_race(scripts):
    cases, speed, _ = scripts
    case = cases.TINY[0]
    race = speed.Race.__new__(speed.Race)
    race.case, race.began, race.batches = case, 0.0, cases.batches(case)
    race.ours = Answers(lambda choice: choice.reference == "live")
    race.torch = Answers(lambda choice: not choice.packed)
    race.chosen, race.searched, race.first = {}, [], {}
    race.search()
    assert set(race.chosen) == {speed.OURS, cases.PACKED}
    failed = [row[0] for row in race.searched if row[2] == "out of memory"]
    assert sorted(failed) == sorted([cases.PADDED, speed.LIVE])
    race.run(2, 1e9)
    table = race.table()
    assert "| failed | 1.00 |" in table
    assert cases.PADDED not in race.seconds
