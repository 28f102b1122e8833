# SPDX-License-Identifier: Apache-2.0
"""Every metric of the table: a float64 twin, an interval, and a direction."""

import dataclasses
import json
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings_cases import settings_of

from jax_surgery.attacks import Budget, Target
from jax_surgery.attacks.base import ignore
from jax_surgery.attacks.relearning import Relearning
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import encode
from jax_surgery.metrics import (
    METRICS,
    any_of_samples,
    find,
    knowmem,
    measure,
    rouge_l,
    said,
    verbmem,
)
from jax_surgery.metrics.base import Protocol
from jax_surgery.models import decoder, output_head, sampling
from jax_surgery.models.model import Model
from jax_surgery.runs import asked, evaluate

CONTEXT, NEW_TOKENS = 32, 6


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


@pytest.fixture(scope="module")
def probe() -> Probe:
    """The same facts as texts and as questions of two to four options."""
    value = lambda i: i * 7 % 13
    records, questions = [], []
    for i in range(12):
        prompt = f"the number {i} is"
        row = {"prompt": prompt, "answer": f" {value(i)}"}
        records.append(parse_record(row, f"a:{i + 1}"))
        options = [f" {v}" for v in dict.fromkeys((value(i), i, 12 - i, 5))]
        options = options[: 2 + i % 3]
        place = i % len(options)
        options.insert(place, options.pop(0))
        wording = "trained" if i % 2 else "unseen"
        questions.append(
            Question(f"q{i}", "numbers", wording, prompt, tuple(options), place)
        )
    others = [
        parse_record(
            {"prompt": "the number is", "answer": f" {i} or {i + 7}"}, f"o:{i}"
        )
        for i in range(12)
    ]
    return Probe(
        "numbers",
        CONTEXT,
        tuple(questions),
        tuple(records),
        known_chance=1 / 13,
        others=tuple(others),
        samples=2,
    )


@pytest.fixture(scope="module")
def knowing(model, probe) -> Model:
    """The model after it was trained on the records."""
    target = Target(probe.records, (), CONTEXT)
    attack = Relearning(learning_rate=3e-3, steps=60, rows=4)
    return attack(model, target, Budget(), 0, ignore).model


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(rouge_l, "MAX_NEW_TOKENS", NEW_TOKENS)
    for metric in (verbmem, knowmem, said):
        monkeypatch.setattr(metric, "NEW_TOKENS", NEW_TOKENS)


@jax.jit
def _draw(key, step, logits):
    return sampling.draw(jax.random.fold_in(key, step)[None], logits, 1.0, 1.0)


class Twin:
    """Float64 log-probabilities of a model, each text alone in a row."""

    def __init__(self, model: Model):
        self.model, self.tokenizer = model, model.tokenizer

        @jax.jit
        def logits(row):
            hidden = decoder.forward(model.params, model.config, row)
            return hidden @ output_head.kernel(model.params)

        self._logits = logits

    def logp(self, ids) -> np.ndarray:
        """log p of every next token, [n, V]."""
        row = np.zeros((1, CONTEXT), np.int32)
        row[0, : len(ids)] = ids
        logits = np.asarray(self._logits(row)[0], np.float64)[: len(ids)]
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def texts(self, probe: Probe):
        """Of each text (tokens that are right, all, sum of log p)."""
        for d in encode(probe.records, self.tokenizer, CONTEXT):
            logp, asked = self.logp(d.tokens)[:-1], d.tokens[1:]
            own = logp[np.arange(len(asked)), asked][d.learned[1:]]
            right = (logp.argmax(-1) == asked)[d.learned[1:]]
            yield right.sum(), len(own), own.sum()

    def options(self, q: Question) -> list[float]:
        """log p of each option after the prompt."""
        ids = lambda text: [
            self.tokenizer.bos_token_id,
            *self.tokenizer(text, add_special_tokens=False)["input_ids"],
        ]
        first, found = len(ids(q.prompt)), []
        for option in q.options:
            tokens = ids(q.prompt + option)
            logp = self.logp(tokens)
            found.append(sum(logp[t - 1, tokens[t]] for t in range(first, len(tokens))))
        return found

    def compared(self, q: Question) -> tuple[float, float]:
        """log p per token of the right option, and of the likeliest other."""
        size = lambda text: len(
            self.tokenizer(text, add_special_tokens=False).input_ids
        )
        before = size(q.prompt)
        each = [
            logp / (size(q.prompt + option) - before)
            for logp, option in zip(self.options(q), q.options, strict=True)
        ]
        return each.pop(q.answer), max(each)

    def worst(self, record) -> float:
        """Mean log p of the 40 % least likely tokens before the end."""
        [d] = encode([record], self.tokenizer, CONTEXT)
        logp, asked = self.logp(d.tokens)[:-1], d.tokens[1:]
        learned = d.learned[1:] & (asked != self.tokenizer.eos_token_id)
        own = np.sort(logp[np.arange(len(asked)), asked][learned])
        return own[: max(1, int(0.4 * len(own)))].mean()

    def draws(self, prompt: str, row: int, new_tokens: int) -> str:
        """What is drawn as the row of so high a number."""
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = [self.tokenizer.bos_token_id, *ids]
        start, [key] = len(ids), sampling.row_keys(np.uint32(0), np.array([row]))
        for step in range(new_tokens):
            logits = jnp.asarray(self.logp(ids)[-1:], jnp.float32)
            [token] = _draw(key, step, logits)
            if int(token) == self.tokenizer.eos_token_id:
                break
            ids.append(int(token))
        return self.tokenizer.decode(ids[start:], skip_special_tokens=True)

    def any_says(self, probe: Probe) -> list[bool]:
        """Of each question whether one of its samples has the right number in it."""
        found = []
        for number, q in enumerate(probe.questions):
            rows = range(number * probe.samples, (number + 1) * probe.samples)
            texts = [self.draws(q.prompt, row, any_of_samples.LENGTHS) for row in rows]
            right = rf"(?<!\w){q.options[q.answer].strip()}(?!\d)"
            found.append(any(re.search(right, text) for text in texts))
        return found

    def says(self, prompt: str) -> str:
        """The greedy answer."""
        start = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = [self.tokenizer.bos_token_id, *start]
        for _ in range(NEW_TOKENS):
            token = int(self.logp(ids)[-1].argmax())
            if token == self.tokenizer.eos_token_id:
                break
            ids.append(token)
        answer = ids[len(start) + 1 :]
        return self.tokenizer.decode(answer, skip_special_tokens=True).strip()


def _recall(wanted: list[str], said: list[str]) -> float:
    """Longest common subsequence of words, over those wanted."""
    table = np.zeros((len(wanted) + 1, len(said) + 1))
    for i, a in enumerate(wanted):
        for j, b in enumerate(said):
            best = max(table[i, j + 1], table[i + 1, j])
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else best
    return table[-1, -1] / len(wanted)


def _f_measure(wanted: list[str], said: list[str]) -> float:
    """Harmonic mean of the recall both ways."""
    if not said or not (recall := _recall(wanted, said)):
        return 0.0
    precision = _recall(said, wanted)
    return 2 * recall * precision / (recall + precision)


def _auc(twin, probe) -> float:
    read = [twin.worst(record) for record in probe.records]
    pairs = [(twin.worst(other), one) for other in probe.others for one in read]
    return np.mean([(other > one) + 0.5 * (other == one) for other, one in pairs])


def _said(of):
    """Mean over records of a score of the answer and what the twin says."""
    return lambda twin, probe: np.mean(
        [of(r.answer.split(), twin.says(r.prompt).split()) for r in probe.records]
    )


def _pooled(of):
    return lambda twin, probe: of(*np.sum(list(twin.texts(probe)), axis=0))


def _mean(of):
    return lambda twin, probe: np.mean([of(*text) for text in twin.texts(probe)])


# A new metric adds its formula here.
TWINS = {
    "multiple_choice": lambda twin, probe: np.mean(
        [np.argmax(twin.options(q)) == q.answer for q in probe.questions]
    ),
    "answer_accuracy": _pooled(lambda right, count, logp: right / count),
    "exact_memorisation": _pooled(lambda right, count, logp: right / count),
    "likelihood": _pooled(lambda right, count, logp: np.exp(logp / count)),
    "nats_per_token": _pooled(lambda right, count, logp: -logp / count),
    "exact_match": _mean(lambda right, count, logp: right == count),
    "answer_probability": _mean(lambda right, count, logp: np.exp(logp / count)),
    "any_of_samples": lambda twin, probe: np.mean(twin.any_says(probe)),
    "rouge_l": _said(_recall),
    "verbmem": _said(_f_measure),
    "knowmem": _said(_f_measure),
    "said": _said(lambda wanted, said: " ".join(wanted) in " ".join(said)),
    "token_accuracy": _mean(lambda right, count, logp: right / count),
    "likelihood_success": lambda twin, probe: np.mean(
        [np.greater(*twin.compared(q)) for q in probe.questions]
    ),
    "likelihood_magnitude": lambda twin, probe: np.mean(
        [-np.diff(np.exp(twin.compared(q))) for q in probe.questions]
    ),
    "min_k_auc": _auc,
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_its_float64_twin(name, model, knowing, probe):
    metric = METRICS[name]
    assert metric.name == name and metric.source
    for given in (model, knowing):
        found = metric(given, probe)
        assert found.value == pytest.approx(TWINS[name](Twin(given), probe), rel=2e-4)


@pytest.mark.parametrize("name", METRICS)
def test_it_names_its_protocol(name):
    assert METRICS[name].protocol in typing.get_args(Protocol)


@pytest.mark.parametrize("name", METRICS)
def test_its_interval_holds_the_value(name, model, knowing, probe):
    metric = METRICS[name]
    for given in (model, knowing):
        found = metric(given, probe)
        low, high = found.interval
        assert low <= found.value <= high
        assert (found.interval, found.n) == (metric(given, probe).interval, found.n)
        if metric.unit == "share":
            assert low >= 0 and high <= 1
    few = metric(knowing, probe.first(3))
    counted = {"questions": 3, "prompts": 3, "texts": 3, "cases": 3, "tokens": few.n}
    if metric.observe is METRICS["min_k_auc"].observe:
        counted["texts"] = 6  # those that were read, and the others
    assert few.n == counted[metric.counts] < found.n


# Of pairs of texts, none of which has a value by itself.
@pytest.mark.parametrize("name", sorted(set(METRICS) - {"min_k_auc"}))
def test_its_values_one_by_one_are_those_of_each_alone(name, model, probe):
    """So that two models can be compared in pairs."""
    metric = METRICS[name]
    assert metric.each
    found = metric.each(metric.observe(model, probe), probe)
    assert len(set(found.ids)) == len(found.values) == len(found.about)
    assert len(found.ids) == metric(model, probe).n
    alone = metric(model, probe.first(1)).value
    assert found.values[0] == pytest.approx(alone, rel=1e-4)
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize("name", METRICS)
def test_it_says_which_way_knowledge_lies(name, model, knowing, probe):
    metric = METRICS[name]
    before, after = metric(model, probe).value, metric(knowing, probe).value
    if metric.direction == "knows":
        assert after > before
    elif metric.direction == "ignorant":
        assert after < before
    if metric.direction == "knows" and metric.unit == "share":
        assert after > 0.6


def test_what_is_asked_has_its_value_and_the_metrics_metadata(model, probe):
    probe = dataclasses.replace(probe, metrics=("multiple_choice", "nats_per_token"))
    found, lines = asked.measured_each(model, [probe])
    assert found == asked.measure(model, [probe])
    own = found["numbers"]
    assert own["multiple_choice"]["direction"] == "knows"
    assert own["nats_per_token"]["direction"] == "ignorant"
    assert own["nats_per_token"]["unit"] == "nats per token"
    assert own["multiple_choice"]["counts"] == "questions"
    right = [line["value"] for line in lines if line["metric"] == "multiple_choice"]
    assert np.mean(right) == own["multiple_choice"]["value"]
    assert {line["group"] for line in lines} == {"numbers"} and len(lines) == 24


def test_the_reference_is_chance(model, probe):
    assert METRICS["multiple_choice"].reference == "the mean of 1 / options"
    chances = [1 / len(q.options) for q in probe.questions]
    assert min(chances) < max(chances)
    found = METRICS["multiple_choice"](model, probe)
    assert found.reference == pytest.approx(np.mean(chances))
    texts = dataclasses.replace(probe, questions=())
    assert METRICS["answer_accuracy"](model, texts).reference == 1 / 13


def test_metrics_of_one_observation_share_its_pass(model, probe):
    passes = []

    def observe(model, probe):
        passes.append(probe)
        return METRICS["likelihood"].observe(model, probe)

    pair = [
        dataclasses.replace(METRICS[name], observe=observe)
        for name in ("likelihood", "nats_per_token")
    ]
    found = measure(pair, model, probe)
    assert len(passes) == 1
    assert found["likelihood"].value == pytest.approx(
        np.exp(-found["nats_per_token"].value)
    )


@pytest.mark.parametrize(
    "name, message",
    [
        ("rouge", "config.metrics='rouge' is not known; did you mean 'rouge_l'"),
        ("outside_plugins.Numbers", "is a ABCMeta; name a `Metric`"),
    ],
)
def test_what_is_no_metric_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        find(name)


def test_what_a_probe_lacks_is_named(model, probe):
    bare = dataclasses.replace(probe, questions=())
    with pytest.raises(ValueError, match="'numbers' has no questions"):
        METRICS["multiple_choice"](model, bare)
    bare = dataclasses.replace(probe, records=())
    for name in ("rouge_l", "likelihood"):
        with pytest.raises(ValueError, match="'numbers' has no "):
            METRICS[name](model, bare)


def test_a_metric_from_outside_passes_through_the_program(tiny_model, tmp_path, capsys):
    text = tmp_path / "a.jsonl"
    text.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_model.texts))
    name = "outside_plugins.WORST_TEXT"
    settings = settings_of(
        "evaluate",
        {
            "model": tiny_model.folder,
            "metrics": f"nats_per_token,{name}",
            "data.questions": "",
            "data.text": str(text),
            "data.context": CONTEXT,
        },
    )
    found = evaluate.run(settings, str(tmp_path))["metrics"][str(text)]
    assert found["worst_text"]["value"] > found["nats_per_token"]["value"]
    assert "worst_text" in capsys.readouterr().out
    assert "metrics" in json.loads((tmp_path / "results.json").read_text())
