# SPDX-License-Identifier: Apache-2.0
"""`unlearn` stopped and gone on with: in its rounds, its statistics, its export."""

import os
import signal

import numpy as np
import pytest
from damage import flip, largest
from subspace_run_cases import ROUNDS, edit_of, go, work_of

from jax_surgery.methods.subspace import knowledge, rounds
from jax_surgery.methods.subspace import text as texts
from jax_surgery.optim.precondition import moments
from jax_surgery.train.loop import Interrupted

OPTIMISED = True  # see conftest
pytestmark = pytest.mark.usefixtures("mesh")


def stopping_at(number: int, monkeypatch):
    """Ctrl-C in a round, counted from 1."""
    take, taken = rounds.take_round, []

    def press(*arguments):
        taken.append(1)
        if len(taken) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return take(*arguments)

    monkeypatch.setattr(rounds, "take_round", press)


@pytest.fixture(scope="module")
def whole(folder, own):
    fields = {"statistics.cache": str(folder / "cache"), **own}
    return go(folder / "whole", **fields), folder / "whole"


@pytest.mark.slow
def test_stopped_and_resumed_is_bit_equal_and_reads_the_cache(
    whole, folder, own, monkeypatch, capsys
):
    fields = {"statistics.cache": str(folder / "cache"), **own}
    with monkeypatch.context() as patched:
        stopping_at(3, patched)
        with pytest.raises(Interrupted, match=f"step 3 of {ROUNDS}.*Go on with"):
            go(folder / "parts", **fields)
    assert "statistics of retained groups: from the cache" in capsys.readouterr().out
    assert not (folder / "parts" / "model").exists()
    resumed = go(folder / "parts", **fields)
    assert f"resuming at step 3 of {ROUNDS}" in capsys.readouterr().out
    results, workdir = whole
    assert resumed["tasks"] == results["tasks"]
    assert resumed["change_norm"] == results["change_norm"]
    wanted = edit_of(workdir).factors
    found = edit_of(folder / "parts").factors
    assert found.keys() == wanted.keys()
    for name, pair in wanted.items():
        for one, other in zip(found[name], pair, strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="this run, which is finished"):
        go(folder / "parts", **fields)


def test_stopped_after_the_export_it_is_written_again(whole, folder, own):
    """As if the report had not been written."""
    fields = {"statistics.cache": str(folder / "cache"), **own}
    workdir = whole[1]
    wanted = (workdir / "model" / "model.safetensors").read_bytes()
    (workdir / "finished.json").unlink()
    (workdir / "model" / "model.safetensors").write_bytes(b"half")
    again = go(workdir, **fields)
    assert again["tasks"] == whole[0]["tasks"]
    assert (workdir / "model" / "model.safetensors").read_bytes() == wanted


def test_statistics_stopped_in_the_middle_go_on(own, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(texts, "ROWS", 1)
    ours = work_of(own)
    text = texts.RetainedText(ours, ["dict_b", "people_a"], {"dict_b"})
    assert text.num_batches >= 3
    model = ours.model
    wanted = moments.second_moments(
        model.params, model.config, text.batches(), model.compute, ours.trainable
    )
    add, added = moments.add, []

    def pressing(*arguments):
        added.append(1)
        if len(added) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return add(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(moments, "add", pressing)
        with pytest.raises(Interrupted, match=f"after 2 of {text.num_batches} batches"):
            knowledge.initial_moments(ours, text, str(tmp_path))
    found = knowledge.initial_moments(ours, text, str(tmp_path))
    assert "going on at 2" in capsys.readouterr().out
    assert found.keys() == wanted.keys()
    for kind, total in wanted.items():
        np.testing.assert_array_equal(found[kind], total)
    # Damaged ones are summed again.
    [folder] = (tmp_path / "statistics").iterdir()
    flip(largest(folder / f"{text.num_batches}"))
    found = knowledge.initial_moments(ours, text, str(tmp_path))
    assert f"step {text.num_batches} in {folder} is damaged" in capsys.readouterr().out
    for kind, total in wanted.items():
        np.testing.assert_array_equal(found[kind], total)
    # A task's tokens weigh its weight together, whatever their number.
    _check_weights(text, ours)
    # Other weights are other statistics, and never taken for these.
    other = texts.RetainedText(ours, ["dict_b", "people_a"], {"people_a"})
    cache = tmp_path / "statistics"
    key, now = (t.key[:16] for t in (text, other))
    assert key != now
    (cache / key).rename(cache / now)
    with pytest.raises(ValueError, match="holds statistics of something else"):
        knowledge.initial_moments(ours, other, str(tmp_path))


def _check_weights(text, ours):
    weights = {}
    for batch in text.batches():
        real = np.asarray(batch.segment_ids_BT) > 0
        tokens = np.asarray(batch.tokens_BT)[real]
        for token, weight in zip(
            tokens, np.asarray(batch.moment_weights_BT)[real], strict=True
        ):
            # The word of the family tells whose prompt it is, once a text.
            weights[int(token)] = weights.get(int(token), 0.0) + float(weight)
    assert sum(weights.values()) == pytest.approx(5.0 + 1.0, rel=1e-4)
