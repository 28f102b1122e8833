# SPDX-License-Identifier: Apache-2.0
"""All scores of a text from one pass, against all its logits in float64, alone."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_surgery.data.forms import parse_record
from jax_surgery.data.tokens import Document, encode_whole
from jax_surgery.metrics import one_pass
from jax_surgery.metrics import tokens as metric_tokens
from jax_surgery.models import attention_kernels, decoder, logprobs, output_head
from jax_surgery.models.model import Model

NAMES = [field.name for field in dataclasses.fields(one_pass.DocumentScores)]


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


@pytest.fixture(scope="module")
def records(model):
    """Questions with several answers, and texts of which all is learned."""
    rows = []
    for i in range(4):
        question = f"what is the number {i} multiplied by seven"
        for answer in (
            f"it is {i * 7}",
            f"{i}",
            "the number is one of thirteen numbers",
        ):
            rows.append({"question": question, "answer": answer})
        rows.append({"text": f"the number {i} is {i * 7 % 13}"})
    return [parse_record(row, f"a:{i}") for i, row in enumerate(rows)]


def logits_of(model: Model, tokens: np.ndarray) -> np.ndarray:
    hidden = decoder.forward(model.params, model.config, jnp.asarray(tokens)[None])
    return np.asarray(hidden[0] @ output_head.kernel(model.params), np.float64)


@pytest.fixture(scope="module")
def documents(model, records) -> list[Document]:
    """The records, and the first one's question with an answer that the model ends."""
    found = encode_whole(records, model.tokenizer)
    tokens = found[0].tokens[: len(found[0].prompt) + 1].tolist()
    begun = len(tokens)
    tokens += [int(logits_of(model, np.array(tokens))[-1].argmin())]
    for _ in range(3):
        tokens.append(int(logits_of(model, np.array(tokens))[-1].argmax()))
    learned = np.arange(len(tokens)) >= begun
    return [Document(np.asarray(tokens, np.int32), learned, "own"), *found]


def twin(model: Model, document: Document) -> dict[str, float]:
    """The definitions, one token after another."""
    said = model.tokenizer.decode(document.tokens[document.learned])
    said = said.removesuffix(model.tokenizer.eos_token)
    logits = logits_of(model, document.tokens)[:-1]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    asked, learned = document.tokens[1:], document.learned[1:]
    own = logp[np.arange(len(asked)), asked]
    loss = -own[learned].mean()
    inner = learned & (asked != model.tokenizer.eos_token_id)
    p = np.exp(logp)
    mean = (p * logp).sum(-1)
    deviation = np.sqrt((p * logp**2).sum(-1) - mean**2)
    n = inner.sum()
    right = logp.argmax(-1)[inner] == asked[inner]
    k = next(k for k in range(n + 1) if right[k:].all())
    lowest = lambda values: np.sort(values[inner])[: max(1, int(0.4 * n))].mean()
    return {
        "loss": loss,
        "zlib": loss / len(zlib.compress(said.encode())),
        "min_k": -lowest(own),
        "min_k_plus_plus": -lowest((own - mean) / deviation),
        "exact_memorisation": right.mean(),
        "extraction_strength": 1 - k / n,
        "tokens": learned.sum(),
    }


def test_scores_are_their_float64_definitions(model, records, documents):
    found = one_pass.score_documents(model, documents)
    of_records = one_pass.score_records(model, records)
    np.testing.assert_allclose(found.loss[1:], of_records.loss, rtol=1e-5)
    np.testing.assert_allclose(found.probability, np.exp(-found.loss))
    wanted = [twin(model, document) for document in documents]
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(found, name), [one[name] for one in wanted], rtol=3e-4, atol=3e-5
        )
    strength = found.extraction_strength
    assert strength[0] == 3 / 4 and strength.min() == 0  # nothing right is 0, not 1/n


def test_a_shared_question_changes_nothing(model, documents, monkeypatch):
    shared = one_pass.score_documents(model, documents)
    none = lambda *arguments: False
    monkeypatch.setattr(attention_kernels, "shares_beginnings", none)
    alone = one_pass.score_documents(model, documents)
    for name in NAMES:
        one, other = getattr(shared, name), getattr(alone, name)
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-5)


def test_the_pass_is_one_for_all_scores(model, documents, monkeypatch):
    passes = []
    of_rows = metric_tokens._statistics_of_rows
    monkeypatch.setattr(
        metric_tokens,
        "_statistics_of_rows",
        lambda *given: passes.append(1) or of_rows(*given),
    )
    one_pass.score_documents(model, documents)
    assert len(passes) == 1


def test_statistics_of_the_vocabulary_are_those_of_the_tokens_asked():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 7, 8)).astype(np.float32)
    head = rng.normal(size=(8, 19)).astype(np.float32)
    targets, active = rng.integers(0, 19, (3, 7)), rng.random((3, 7)) < 0.4
    found = jax.jit(logprobs.token_statistics)(
        hidden, output_head.Head(jnp.asarray(head)[None]), targets, active
    )
    logits = hidden.astype(np.float64) @ head
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    mean = (np.exp(logp) * logp).sum(-1)
    wanted = (
        np.take_along_axis(logp, targets[..., None], -1)[..., 0],
        logp.argmax(-1) == targets,
        mean,
        (np.exp(logp) * logp**2).sum(-1) - mean**2,
    )
    for values, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(values, np.where(active, right, 0), atol=2e-5)


def test_what_cannot_be_scored_is_named(model, documents):
    none = np.zeros(len(documents[0].tokens), bool)
    bare = dataclasses.replace(documents[0], learned=none)
    with pytest.raises(ValueError, match="own has no learned token"):
        one_pass.score_documents(model, [bare])
    broken = model.with_params(jax.tree.map(lambda x: x * np.nan, model.params))
    with pytest.raises(ValueError, match="17 of 17 texts are no finite numbers"):
        one_pass.score_documents(broken, documents)
