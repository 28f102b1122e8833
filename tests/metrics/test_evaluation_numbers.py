# SPDX-License-Identifier: Apache-2.0
"""Multiple choice, memorisation, intervals and cost against what they stand for."""

import dataclasses

import jax
import numpy as np
import pytest
from architecture_cases import logits_alone
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_settings import plain_compute
from settings_cases import plain_surgery

from jax_surgery.data.forms import Record, parse_record
from jax_surgery.data.packing import Packer
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.data.tokens import encode
from jax_surgery.metrics import (
    answer_accuracy,
    answer_probability,
    continuations,
    exact_match,
    exact_memorisation,
    multiple_choice,
    rouge_l,
)
from jax_surgery.metrics.intervals import bootstrap_mean, wilson_interval
from jax_surgery.models import flops
from jax_surgery.models.model import Model
from jax_surgery.report import cost

COMPUTE = plain_compute()


def sum_logp(model, ids, first: int) -> float:
    """log p of ids[first:] given those before, from all logits, float64."""
    logits_TV = logits_alone(model.params, model.config, ids)
    logp_TV = logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))
    return sum(logp_TV[t - 1, ids[t]] for t in range(first, len(ids)))


def question(prompt, options, answer=0, *, group="g", wording="trained", name="q"):
    return Question(name, group, wording, prompt, tuple(options), answer)


def model_of(model) -> Model:
    return Model(model.params, model.config, model.tokenizer, COMPUTE)


def probe_of(pairs, context) -> Probe:
    return Probe("pairs", context, records=tuple(pairs))


def asked(model, questions, context=64):
    probe = Probe("all", context, tuple(questions))
    return multiple_choice.answer(model_of(model), probe)


QUESTIONS = (
    # Options of one token each, of several, and of both.
    question("the number 3 is", (" 1", " 2", " 3", " 4"), 2),
    question("the number 5", (" is", " the"), 1, wording="unseen"),
    question("the", (" number 11 is 12", " number is", " is", " 7"), 1, group="h"),
    question("number 1", (" is 12", " is 12 is"), 0, group="h"),
)


def test_the_likeliest_option_is_chosen(tiny_model):
    tokenizer = tiny_model.tokenizer
    answers = asked(tiny_model, QUESTIONS)
    for number, q in enumerate(QUESTIONS):
        start = [tokenizer.bos_token_id, *tokenizer(q.prompt)["input_ids"]]
        wanted = []
        for option in q.options:
            ids = [tokenizer.bos_token_id, *tokenizer(q.prompt + option)["input_ids"]]
            assert ids[: len(start)] == start
            wanted.append(sum_logp(tiny_model, ids, len(start)))
        np.testing.assert_allclose(answers.logprobs[number], wanted, rtol=1e-4)
        assert answers.choice[number] == int(np.argmax(wanted))


def test_a_question_may_be_asked_in_the_chat_template(tiny_model):
    """The option is the assistant's message, and the end of its turn is not asked for."""
    tokenizer = tiny_model.tokenizer
    probe = Probe("all", 64, QUESTIONS, chat="always")
    found = multiple_choice.answer(model_of(tiny_model), probe)
    # The stand-in's template, "Question: ... Answer: ...", is used only on request.
    bare = multiple_choice.answer(model_of(tiny_model), Probe("all", 64, QUESTIONS))
    for number, q in enumerate(QUESTIONS):
        for way, options in (("chat", found), ("bare", bare)):
            wanted = []
            for option in q.options:
                start = f"Question: {q.prompt} Answer:" if way == "chat" else q.prompt
                ids = tokenizer(start + f" {option.strip()}")["input_ids"]
                first = len(tokenizer(start)["input_ids"])
                wanted.append(
                    sum_logp(tiny_model, [tokenizer.bos_token_id, *ids], 1 + first)
                )
            np.testing.assert_allclose(options.logprobs[number], wanted, rtol=1e-4)


def test_a_prompt_with_bos_gets_no_second_one(tiny_model):
    written = [dataclasses.replace(q, prompt=f"<s>{q.prompt}") for q in QUESTIONS]
    for one, two in zip(
        asked(tiny_model, written).logprobs,
        asked(tiny_model, QUESTIONS).logprobs,
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def test_a_destroyed_model_knows_nothing(tiny_model):
    """All tokens are as likely: none is recalled, and options are chosen by chance."""
    zero = jax.tree.map(np.zeros_like, tiny_model.params)
    model = dataclasses.replace(model_of(tiny_model), params=zero)
    pairs = [parse_record({"text": text}, text) for text in tiny_model.texts]
    for metric in (exact_memorisation, answer_accuracy, exact_match):
        assert metric.METRIC(model, probe_of(pairs, 64)).value == 0
    many = tuple(
        question("the number 3 is", (" 1", " 2", " 3", " 4"), name=str(i))
        for i in range(400)
    )
    found = multiple_choice.METRIC(model, Probe("all", 64, many))
    assert found.interval[0] < found.reference < found.interval[1]


def test_a_model_that_has_diverged_is_not_at_chance(tiny_model):
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), tiny_model.params)
    model = dataclasses.replace(model_of(tiny_model), params=broken)
    with pytest.raises(ValueError, match="4 of 4 questions cannot be scored: .* NaN"):
        multiple_choice.answer(model, Probe("all", 64, QUESTIONS))
    pairs = [parse_record({"text": text}, text) for text in tiny_model.texts]
    with pytest.raises(ValueError, match="answer_probability of 'pairs' is nan"):
        answer_probability.METRIC(model, probe_of(pairs, 64))


def test_the_company_of_a_question_changes_no_answer(tiny_model):
    together = asked(tiny_model, QUESTIONS * 9)
    alone = asked(tiny_model, QUESTIONS[2:3])
    for place in range(2, 36, 4):
        np.testing.assert_allclose(
            together.logprobs[place], alone.logprobs[0], rtol=1e-4
        )


def test_accuracies_are_counted_by_group_and_wording():
    answers = multiple_choice.Answers(
        QUESTIONS, np.array([2, 0, 1, 1]), tuple(np.zeros(4) for _ in QUESTIONS)
    )
    found = multiple_choice.summarise(answers)
    assert list(found) == ["g", "h"]
    assert (found["g"]["accuracy"], found["g"]["n"]) == (0.5, 2)
    assert found["g"]["trained"]["accuracy"] == 1.0
    assert found["g"]["unseen"]["accuracy"] == 0.0
    assert "unseen" not in found["h"]
    assert found["h"]["interval"] == list(wilson_interval(1, 2))


def test_what_cannot_be_asked_is_named(tiny_model):
    long = question("the number 3 is the number 5 is", (" 1", " 2"), name="too/long")
    with pytest.raises(
        ValueError, match="'too/long' is .* raise config.data.context=6"
    ):
        asked(tiny_model, (long,), context=6)
    empty = question("the number", ("", " 2"), name="nothing")
    with pytest.raises(ValueError, match="'nothing' has an option without a token"):
        asked(tiny_model, (empty,))


@given(st.integers(0, 30), st.integers(0, 5))
def test_a_subsample_takes_so_many_of_each_group(limit, seed):
    questions = tuple(
        question("p", ("a", "b"), group=group, name=f"{group}{i}")
        for group, count in (("a", 12), ("b", 25))
        for i in range(count)
    )
    chosen = multiple_choice.subsample(questions, limit, seed)
    assert chosen == multiple_choice.subsample(questions, limit, seed)
    assert len(set(chosen)) == len(chosen) == min(12, limit) + min(25, limit)
    assert set(chosen) <= set(questions)


def test_answer_probability_is_the_mean_over_its_tokens(tiny_model):
    pairs = [
        parse_record({"question": "number 3", "answer": "is 8"}, "a:1"),
        parse_record({"question": "the", "answer": "number 7 is 10"}, "a:2"),
    ]
    probe = probe_of(pairs, 64)
    scores = answer_probability.score_answers(model_of(tiny_model), probe)
    found = np.exp(scores.logp / scores.tokens)
    for value, pair in zip(found, pairs, strict=True):
        (document,) = encode([pair], tiny_model.tokenizer, 64)
        first = int(np.argmax(document.learned))
        assert document.learned[first:].all()
        total = sum_logp(tiny_model, document.tokens.tolist(), first)
        assert value == pytest.approx(np.exp(total / document.learned.sum()), rel=1e-4)


def test_pairs_longer_than_the_context_are_refused(tiny_model):
    pair = parse_record({"question": "the " * 9, "answer": "is 8"}, "a:1")
    with pytest.raises(
        ValueError, match="1 of 1 .* first a:1 .* raise config.data.con"
    ):
        answer_probability.METRIC(model_of(tiny_model), probe_of([pair], 8))


def test_rouge_is_recall_of_the_reference(tiny_model, monkeypatch):
    said = "She wrote two novels about the sea and ships"
    ids = tiny_model.tokenizer(said)["input_ids"]
    monkeypatch.setattr(continuations, "greedy_generate", lambda *a, **k: [ids, []])
    pairs = [
        Record("q", " Writing novels about ships", (), "a:1"),
        Record("q", " anything", (), "a:2"),
    ]
    probe = probe_of(pairs, 128)
    answers = rouge_l.greedy_answers(model_of(tiny_model), probe)
    assert answers == (said, "")
    # novel(s), about and ship(s), in order, of 4 words.
    np.testing.assert_allclose(rouge_l.recalls(answers, probe.records), [3 / 4, 0])
    found = rouge_l.METRIC(model_of(tiny_model), probe)
    assert found.n == 2 and found.value == pytest.approx(3 / 8)
    low, high = found.interval
    assert 0 <= low <= found.value <= high <= 1


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_its_closed_form(pair):
    """Wilson 1927: the shares whose own normal interval ends at the one measured."""
    right, count = pair
    share, z = right / count, 1.959963984540054
    for end in wilson_interval(right, count):
        distance = z * np.sqrt(end * (1 - end) / count)
        assert abs(share - end) == pytest.approx(distance, abs=1e-9)


def test_nothing_asked_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_one_text_has_no_spread():
    assert bootstrap_mean(np.array([0.3])) == (0.3, 0.3)


@settings(max_examples=20)
@given(st.integers(0, 9), st.integers(0, 2))
def test_the_bootstrap_is_near_the_normal_interval(data_seed, seed):
    values = np.random.default_rng(data_seed).normal(3, 2, 200)
    low, high = bootstrap_mean(values, seed)
    assert (low, high) == bootstrap_mean(values, seed)
    half = 1.96 * values.std() / np.sqrt(200)
    np.testing.assert_allclose(
        (low, high), (values.mean() - half, values.mean() + half), atol=0.3 * half
    )


@pytest.fixture
def cost_of(tiny_model):
    """The cost of a surgery with 2 rows of each role and a context of 32 tokens."""
    documents = encode(
        [parse_record({"text": text}, "") for text in tiny_model.texts],
        tiny_model.tokenizer,
        32,
    )
    packer = Packer(documents, 32, "tokens")
    texts = RoleTexts({"update": packer, "retain": packer}, packer)
    rows = dict.fromkeys(("rows_unlearn", "rows_update", "rows_retain"), 2)

    def of(epochs=0.0, data=rows, **fields):
        settings = plain_surgery(data=data, steps=10, **fields)
        found = cost.of_surgery(settings, texts, tiny_model.config, epochs)
        return found, packer

    return of


def test_the_cost_of_a_plain_run_is_its_passes(tiny_model, cost_of):
    config = tiny_model.config
    found, packer = cost_of(epochs=3.0)
    training = flops.training_flops(config, 6 * 10 * 32, 32)
    reference = flops.forward_flops(config, 2 * 10 * 32, 32)
    assert found["items"] == {"training": training, "reference": reference}
    assert found["surgery_flops"] == pytest.approx(training + reference)
    # The same text in two roles is learned once by whoever trains on everything.
    baseline = flops.training_flops(config, 3 * packer.num_tokens, 32)
    assert found["baseline_flops"] == baseline
    assert found["ratio"] == found["baseline_flops"] / found["surgery_flops"]
    # What rounds of subspaces cost is not known before, so nothing is compared.
    mixed, _ = cost_of(epochs=3.0, method="surgery@update;subspace@unlearn")
    assert mixed["surgery_flops"] > 0 and "ratio" not in mixed
    # A cached reference reads the retain text once.
    cached, _ = cost_of(reference="cached")
    assert cached["reference_tokens"] == len(packer.pack()) * 32
    assert "ratio" not in cached


def test_layers_below_the_first_that_moves_count_once_where_they_are_cached(
    tiny_model, cost_of
):
    config = tiny_model.config
    upper = {"optimizer": {"first_layer": 1, "matrices": "gate,up,down"}}
    rows = {"rows_unlearn": 0, "rows_update": 2, "rows_retain": 2}
    live, packer = cost_of(data=rows, **upper)
    cached, _ = cost_of(data=rows, reference="cached", **upper)
    steps, once = 4 * 10 * 32, 2 * len(packer.pack()) * 32
    saved = live["items"]["training"] - cached["items"]["training"]
    assert saved == flops.layers_flops(config, steps - once, 32, 1)
    whole = flops.layers_flops(config, steps, 32, config.num_layers)
    head = 2 * steps * config.hidden_size * config.vocab_size
    assert whole + head == flops.forward_flops(config, steps, 32)


def test_statistics_and_algebra_count_and_frozen_layers_save(cost_of):
    plain, _ = cost_of()
    fewer, _ = cost_of(optimizer={"first_layer": -1, "matrices": "gate,up,down"})
    assert fewer["items"]["training"] < plain["items"]["training"]
    natural, packer = cost_of(optimizer={"name": "natural"})
    read = natural["statistics_tokens"]
    assert read >= len(packer.pack()) * 32 and natural["items"]["statistics"] > 0
    assert natural["items"]["preconditioner"] > 0
    orthogonal, _ = cost_of(optimizer={"name": "orthogonal"})
    assert orthogonal["items"]["preconditioner"] > natural["items"]["preconditioner"]
    both, _ = cost_of(optimizer={"name": "kfac"})
    assert read < both["statistics_tokens"] <= 2 * read
    for item in ("statistics", "preconditioner"):
        assert both["items"][item] > natural["items"][item]


def test_stages_cost_what_each_of_them_costs(cost_of):
    """Of roles that a stage does not change no rows are trained, and each stage reads
    statistics of its own."""
    natural = {"optimizer": {"name": "natural"}}
    once, _ = cost_of(**natural)
    twice, _ = cost_of(method="surgery@unlearn;surgery@update", **natural)
    assert twice["trained_tokens"] == 2 * (2 + 2) * 10 * 32
    for item in ("statistics", "preconditioner"):
        assert twice["items"][item] == pytest.approx(2 * once["items"][item])
    assert twice["statistics_tokens"] == 2 * once["statistics_tokens"]
