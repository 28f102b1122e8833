# SPDX-License-Identifier: Apache-2.0
"""Scores of texts against float64 values of each text alone, and what is told of them."""

import zlib

import jax
import numpy as np
import pytest
from architecture_cases import logits_alone

from jax_surgery.attacks import gradient_norms, membership
from jax_surgery.attacks.membership import Sides
from jax_surgery.data.forms import parse_record
from jax_surgery.metrics.whole_texts import membership_scores, whole_texts
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.model import Model

CONTEXT = 24
ROWS = [
    {"prompt": "the number 3 is", "answer": " 8"},
    {"prompt": "the number 5 is", "answer": " 9 and the number 7 is 10"},
    {"text": " ".join(f"the number {i} is {i * 7 % 13}" for i in range(9))},  # pieces
]


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


@pytest.fixture(scope="module")
def records():
    return [parse_record(row, f"a:{i}") for i, row in enumerate(ROWS)]


@pytest.fixture(scope="module")
def texts(model, records):
    with pytest.warns(UserWarning, match="1 of 3 texts are longer than the context"):
        return whole_texts(records, model, CONTEXT)


def pieces(texts, number):
    return [d for d, n in zip(texts.packer.documents, texts.text_of) if n == number]


def test_scores_are_those_of_each_text_alone(model, texts):
    found = membership_scores(model, texts, 0.4)
    assert len(texts) == 3 and len(pieces(texts, 2)) > 1
    for number in range(3):
        logp, mean, deviation, ids = [], [], [], []
        for document in pieces(texts, number):
            logits = logits_alone(model.params, model.config, document.tokens.tolist())
            all_logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            asked = np.flatnonzero(document.learned)
            asked = asked[asked > 0]
            before, p = all_logp[asked - 1], np.exp(all_logp[asked - 1])
            own = (p * before).sum(-1)
            logp += before[np.arange(len(asked)), document.tokens[asked]].tolist()
            mean += own.tolist()
            deviation += np.sqrt((p * (before - own[:, None]) ** 2).sum(-1)).tolist()
            ids += document.tokens[asked].tolist()
        logp, mean, deviation = map(np.array, (logp, mean, deviation))
        loss = -logp.mean()
        assert found["loss"][number] == pytest.approx(loss, rel=1e-4)
        text = model.tokenizer.decode(ids, skip_special_tokens=True)
        size = len(zlib.compress(text.encode()))
        assert found["zlib"][number] == pytest.approx(loss / size, rel=1e-4)
        assert ids[-1] == model.tokenizer.eos_token_id  # which min-k leaves out
        for name, values in (
            ("min_k", logp[:-1]),
            ("min_k_plus_plus", ((logp - mean) / deviation)[:-1]),
        ):
            lowest = np.sort(values)[: max(1, int(0.4 * len(values)))]
            assert found[name][number] == pytest.approx(-lowest.mean(), rel=1e-4)


def test_the_end_of_a_text_may_be_left_out(model, records, texts):
    with pytest.warns(UserWarning, match="were split"):
        bare = whole_texts(records, model, CONTEXT, ends=False)
    own = [sum(d.targets for d in pieces(t, 0)) for t in (texts, bare)]
    assert own[0] == own[1] + 1


def test_gradient_norms_are_those_of_a_plain_loss(model, texts):
    """Of each text by itself, from all of its logits."""
    found = gradient_norms.gradient_norms(model, texts)

    def loss(params, rows):
        total, count = 0.0, 0
        for document in rows:
            tokens = np.zeros((1, 32), np.int32)
            tokens[0, : len(document.tokens)] = document.tokens
            hidden = decoder.forward(params, model.config, tokens)[0]
            head = output_head.of(params, model.config)
            logp = jax.nn.log_softmax(logprobs.logits(hidden, head))
            asked = np.flatnonzero(document.learned)
            asked = asked[asked > 0]
            total -= logp[asked - 1, document.tokens[asked]].sum()
            count += len(asked)
        return total / count

    for number in (0, 2):
        own = pieces(texts, number)
        gradient = jax.jit(jax.grad(lambda params, own=own: loss(params, own)))(
            model.params
        )
        norms = []
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            stacked = path[0].key == "layers"  # a tensor a layer
            each = np.asarray(leaf, np.float64)
            each = each.reshape(len(each), -1) if stacked else each.reshape(1, -1)
            norms += np.linalg.norm(each, axis=1).tolist()
        assert found[number] == pytest.approx(np.mean(norms), rel=1e-3)


def sides(apart: float, seed: int = 0) -> Sides:
    rng = np.random.default_rng(seed)
    return Sides(rng.normal(-apart, 1, 60), rng.normal(0, 1, 60))


def test_what_is_told_is_compared_with_a_model_that_never_knew():
    own = {"loss": sides(2.0), "min_k": sides(0.0, 1), "gradient_norm": sides(2.0)}
    never = {"loss": sides(0.0, 2), "min_k": sides(0.0, 3), "gradient_norm": sides(2.0)}
    own = membership.with_reference(own, never)
    found = membership.told(own, never, ["loss", "reference", "min_k", "gradient_norm"])
    assert list(found) == ["loss", "reference", "min_k", "gradient_norm"]
    assert "excess" not in found["reference"]
    loss = found["loss"]
    assert loss["excess"]["p_holm"] < 0.01 < found["min_k"]["excess"]["p_holm"]
    assert loss["excess"]["value"] == pytest.approx(
        loss["model"]["auc"]["value"] - loss["reference_model"]["auc"]["value"]
    )
    # It tells as much of a model that never knew, so it tells nothing.
    assert found["gradient_norm"]["model"]["auc"]["value"] > 0.9
    assert found["gradient_norm"]["excess"]["p"] == 1.0
    told = membership.leakage(found)["leakage"]["value"]
    auc = [found["min_k"][m]["auc"]["value"] for m in ("model", "reference_model")]
    assert told == pytest.approx(100 * (auc[1] - auc[0]) / (1 - auc[1]))
    assert membership.leakage({"loss": loss}) == {}


def test_a_leakage_that_is_not_defined_is_a_warning():
    found = membership.told({"min_k": sides(0)}, {"min_k": sides(0)}, ["min_k"])
    found["min_k"]["reference_model"]["auc"]["value"] = 1.0
    assert "not defined" in membership.leakage(found)["warnings"][0]


def test_models_that_read_other_texts_are_refused():
    one, other = {"loss": sides(0)}, {"loss": Sides(np.zeros(3), np.zeros(60))}
    with pytest.raises(ValueError, match=r"read \[60, 60\] and \[3, 60\] of the texts"):
        membership.with_reference(one, other)
