# SPDX-License-Identifier: Apache-2.0
"""Every metric of the table: a float64 twin, an interval, and a direction."""

import dataclasses
import json

import jax
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
from jax_surgery.metrics import METRICS, Metric, find, measure, rouge_l
from jax_surgery.models import decoder, output_head
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
    return Probe(
        "numbers", CONTEXT, tuple(questions), tuple(records), known_chance=1 / 13
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
    "rouge_l": lambda twin, probe: np.mean(
        [_recall(r.answer.split(), twin.says(r.prompt).split()) for r in probe.records]
    ),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_its_float64_twin(name, model, knowing, probe):
    metric = METRICS[name]
    assert metric.name == name and metric.source
    for given in (model, knowing):
        found = metric(given, probe)
        assert found.value == pytest.approx(TWINS[name](Twin(given), probe), rel=2e-4)


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
    counted = {"questions": 3, "texts": 3, "tokens": few.n}
    assert few.n == counted[metric.counts] < found.n


@pytest.mark.parametrize("name", METRICS)
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
    assert isinstance(find(name), Metric)
    assert found["worst_text"]["value"] > found["nats_per_token"]["value"]
    assert "worst_text" in capsys.readouterr().out
    assert "metrics" in json.loads((tmp_path / "results.json").read_text())
