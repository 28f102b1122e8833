# SPDX-License-Identifier: Apache-2.0
"""Metrics of editing benchmarks and of MUSE, by their published definitions."""

import dataclasses
import typing

import jax
import numpy as np
import pytest
from architecture_cases import logits_alone

from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import encode
from jax_surgery.metrics import COMPARISONS, METRICS, cases, muse_membership
from jax_surgery.metrics.base import Protocol
from jax_surgery.metrics.compared import Compared
from jax_surgery.metrics.continuations import cut, prompt_tokens
from jax_surgery.metrics.muse_membership import Membership
from jax_surgery.models.model import Model

CONTEXT = 32


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


@pytest.fixture(scope="module")
def other(tiny_model, model) -> Model:
    shaken = jax.tree.map(
        lambda x: x + 0.01 * jax.random.normal(jax.random.key(x.size), x.shape),
        tiny_model.params,
    )
    return model.with_params(shaken)


@pytest.fixture(scope="module")
def probe() -> Probe:
    rows = [{"prompt": f"the number {i} is", "answer": f" {i} {i}"} for i in range(6)]
    records = tuple(parse_record(row, f"f:{i}") for i, row in enumerate(rows))
    return Probe("locality", CONTEXT, records=records, ends=False)


def test_prompts_then_kinds_then_facts_are_averaged():
    """As EasyEdit's KnowEdit script does, which sums over kinds of a request first."""
    values = [1.0, 0.0, 1.0, 0.5]
    of = [("a", "r"), ("a", "r"), ("a", "s"), ("b", "r")]
    np.testing.assert_allclose(cases.means(np.array(values), of), [0.75, 0.5])
    # Prompts of a case need not be neighbours.
    order = [3, 1, 2, 0]
    moved = cases.means(np.array(values)[order], [of[i] for i in order])
    np.testing.assert_allclose(moved, [0.5, 0.75])
    np.testing.assert_allclose(cases.means(np.array(values), ()), values)
    with pytest.raises(ValueError, match="4 prompts were to be measured, and 3 were"):
        cases.means(np.array(values[:3]), of)


def test_n_and_interval_are_of_facts():
    probe = Probe("p", CONTEXT, cases=(("a", ""), ("a", ""), ("b", "")))
    found = cases.estimate(np.array([1.0, 0.0, 1.0]), probe)
    assert (found.value, found.n) == (0.75, 2)
    all_right = cases.estimate(np.ones(3), probe)
    low, high = all_right.interval
    assert low < 0.5 and high == 1  # Wilson's of two facts, not one of no width


def test_success_is_strict_and_magnitude_is_of_probabilities_per_token():
    found = Compared(np.log([0.5, 0.2, 0.3]), np.log([0.25, 0.4, 0.3]))
    probe = Probe("p", CONTEXT)
    success = METRICS["likelihood_success"].estimate(found, probe)
    assert success.value == pytest.approx(1 / 3)  # a tie is no success
    magnitude = METRICS["likelihood_magnitude"].estimate(found, probe)
    assert magnitude.value == pytest.approx((0.25 - 0.2 + 0) / 3)


def test_likelihood_and_token_accuracy_never_share_a_name():
    of = lambda protocol: {n for n, m in METRICS.items() if m.protocol == protocol}
    every = typing.get_args(Protocol)
    assert set().union(*map(of, every)) == set(METRICS)
    assert {"likelihood_success", "likelihood_magnitude"} <= of("likelihood comparison")
    assert "token_accuracy" in of("teacher-forced token accuracy")
    free = {"said", "verbmem", "knowmem", "rouge_l", "any_of_samples"}
    assert free == of("free generation")
    assert not set(METRICS) & set(COMPARISONS)
    assert {c.protocol for c in COMPARISONS.values()} <= set(every)


def test_unchanged_tokens_are_those_that_the_model_said_before(model, other, probe):
    comparison = COMPARISONS["unchanged_tokens"]
    before, after = (comparison.observe(m, probe) for m in (model, other))

    def said(m):
        for d in encode(probe.records, m.tokenizer, CONTEXT):
            keep = d.learned[1:] & (d.tokens[1:] != m.tokenizer.eos_token_id)
            logits = logits_alone(m.params, m.config, d.tokens.tolist())
            yield logits[:-1].argmax(-1)[keep]

    wanted = [np.mean(a == b) for a, b in zip(said(model), said(other), strict=True)]
    found = comparison.compare(after, before, probe)
    assert found.value == pytest.approx(np.mean(wanted))
    assert 0 < found.value < 1 and found.n == 6
    assert comparison.compare(before, before, probe).value == 1
    short = dataclasses.replace(probe, context=4)
    with pytest.raises(ValueError, match="compares records that fit"):
        comparison.observe(model, short)


def test_privleak_is_the_authors_formula():
    """The values of MUSE News' logs: AUCs of .0009 and .4772 are -99.81."""
    rng = np.random.default_rng(0)
    never = Membership(rng.normal(size=80), rng.normal(size=90))
    knows = Membership(never.read + 2, never.others)
    pushed = Membership(never.read - 2, never.others)
    compare = COMPARISONS["privleak"].compare
    probe = Probe("privleak", CONTEXT)
    for found in (knows, pushed):
        mine, base = muse_membership.auc(found), muse_membership.auc(never)
        got = compare(found, never, probe)
        assert got.value == pytest.approx(100 * (mine - base) / base)
        assert got.interval[0] <= got.value <= got.interval[1]
    assert compare(knows, never, probe).value < 0 < compare(pushed, never, probe).value
    same = compare(never, never, probe)
    assert same.value == 0 and same.interval == (0, 0)
    assert 100 * (0.0009 - 0.4772) / 0.4772 == pytest.approx(-99.81, abs=0.005)
    nothing = Membership(np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="AUC on 'privleak' is 0.0"):
        compare(knows, nothing, probe)


def test_auc_is_that_of_scipy():
    from scipy import stats

    rng = np.random.default_rng(1)
    found = Membership(rng.integers(0, 5, 30) * 1.0, rng.integers(1, 6, 20) * 1.0)
    u = stats.mannwhitneyu(found.others, found.read).statistic
    assert muse_membership.auc(found) == pytest.approx(u / 600)
    drawn = muse_membership.resampled([found, found])
    np.testing.assert_allclose(drawn[0], drawn[1])
    assert drawn[0].mean() == pytest.approx(muse_membership.auc(found), abs=0.01)


def test_membership_needs_both_kinds_of_texts(model, probe):
    with pytest.raises(ValueError, match="has 6 records and 0 texts that no model"):
        METRICS["min_k_auc"](model, probe)
    long = dataclasses.replace(probe, others=probe.records, context=4)
    with pytest.raises(ValueError, match="texts are longer than config.data.context=4"):
        METRICS["min_k_auc"](model, long)


def test_a_prompt_is_read_as_it_stands(model, tiny_model):
    """MUSE's prompts end with a space, which no answer may take into its first token."""
    record = parse_record({"prompt": "the number is ", "answer": "1"}, "f:1")
    plain = tiny_model.tokenizer("the number is ", add_special_tokens=False)
    expected = [tiny_model.tokenizer.bos_token_id, *plain["input_ids"]]
    assert prompt_tokens(record, model) == expected
    asked = parse_record({"question": "which number?", "answer": "1"}, "f:2")
    assert tiny_model.tokenizer.decode(prompt_tokens(asked, model)).endswith("Answer:")
    assert cut("Rome\n\nQuestion: x", ("\n\n", "Question:")) == "Rome"


def test_what_has_no_prompt_is_named(tiny_model, probe):
    bare = dataclasses.replace(
        probe, records=(parse_record({"text": "no prompt here"}, "f:9"),)
    )
    tokenizer = type(
        "NoBos", (), {"bos_token": None, "__call__": lambda *a, **k: {"input_ids": []}}
    )()
    with pytest.raises(ValueError, match="f:9 has no prompt, after which said"):
        METRICS["said"](Model(tiny_model.params, tiny_model.config, tokenizer), bare)
