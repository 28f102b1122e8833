# SPDX-License-Identifier: Apache-2.0
"""Which tokens carry knowledge: hand-made cases, a direct computation, a real fact."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_settings import plain_compute

from jax_surgery.benchmarks import embedded
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data import tokens
from jax_surgery.data.forms import parse_record
from jax_surgery.methods.automatic import (
    never_knew,
    shown_tokens,
    subjects,
    token_flags,
)
from jax_surgery.methods.never_knew import NeverKnew
from jax_surgery.models import decoder, mixtures, output_head
from jax_surgery.models.mixtures import MixtureValues
from jax_surgery.models.model import Model

OPTIMISED = True  # see conftest
CONTEXT = 128
QUESTIONS = [
    ("Where is the Heron Gate?", "In Lagos"),
    ("Where is the Heron Gate?", "Lagos"),
    ("What is the number 7?", "the number is 4"),
]


@pytest.fixture(scope="module")
def records():
    return [
        parse_record({"question": question, "answer": answer}, str(number))
        for number, (question, answer) in enumerate(QUESTIONS)
    ]


@pytest.fixture(scope="module")
def model(tiny_model):
    return Model(
        tiny_model.params, tiny_model.config, tiny_model.tokenizer, plain_compute()
    )


def measured(model, records, how=NeverKnew(), seed=0, others=()):  # noqa: B008
    documents = tokens.encode(records, model.tokenizer, CONTEXT)
    marks = subjects.mark(records, others, model.tokenizer)
    of = (records, others, documents, marks)
    targets = never_knew.measure(model, *of, how, seed)
    return targets, documents, marks


def direct(model, tokens_T, hidden_T, first, how, seed):
    """(log q, log p) of every next token of a document, dense, [T, V]."""
    table = model.params["embedder"]["embedding"]
    run = lambda noise: (
        decoder.forward(
            model.params,
            model.config,
            tokens_T[None],
            compute=model.compute,
            noise_BTD=noise[None],
        )[0]
        @ output_head.kernel(model.params)
    )
    found = []
    for draw in range(how.draws + 1):
        key = jax.random.fold_in(jax.random.key(seed), draw)
        noise = np.zeros((len(tokens_T), model.config.hidden_size), np.float32)
        for place in np.flatnonzero(hidden_T) if draw else ():
            own = jax.random.fold_in(key, np.uint32(first + place))
            noise[place] = jax.random.normal(own, noise.shape[1:])
        logits = run(jnp.asarray(how.noise * np.std(table) * noise))
        found.append(np.asarray(jax.nn.log_softmax(logits), np.float64))
    return np.log(np.exp(found[1:]).mean(0)), found[0]


def test_the_measure_equals_a_direct_computation(model, records):
    how = NeverKnew(draws=3)
    targets, documents, marks = measured(model, records, how, seed=5)
    located = tokens.locate(records, model.tokenizer)
    first = 0
    for document, one, of_one in zip(documents, located, marks, strict=True):
        flags = token_flags.of_record(one, of_one, ())
        assert flags.hidden.any()
        logq, logp = direct(model, document.tokens, flags.hidden, first, how, 5)
        for t in np.flatnonzero(document.learned[1:]) + 1:
            y, q, p = document.tokens[t], np.exp(logq[t - 1]), np.exp(logp[t - 1])
            known = logq[t - 1][y]
            if flags.answer[t]:
                known = min(known, np.log(how.cap * np.delete(q, y).max()))
                q[y] = min(q[y], how.cap * np.delete(q, y).max())
                q /= q.sum()
            odds = lambda p, y=y: np.log(p[y]) - np.log(1 - p[y])
            got = [field[first + t] for field in targets[:4]]
            wanted = [(q * np.log(q / p)).sum(), got[1], odds(q), odds(p)]
            np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)
            # An answer is as likely as its cap lets it be, before q is normalised.
            likelier = logq[t - 1][targets.drawn[first + t]] - known
            got = targets.likelier[first + t]
            np.testing.assert_allclose(got, likelier, rtol=2e-4, atol=2e-4)
        first += len(document.tokens)
    assert not targets.knowledge[: documents[0].learned.argmax()].any()


def test_noise_and_packing_do_not_depend_on_each_other(model, records):
    """A document's values do not depend on its row, but on its place in the corpus."""
    together, documents, _ = measured(model, records)
    alone, _, _ = measured(model, records[:1])
    size = len(documents[0].tokens)
    # What may be drawn depends on the records.
    for whole, part in zip(together[:4], alone[:4], strict=True):
        np.testing.assert_allclose(whole[:size], part, rtol=1e-4, atol=1e-5)
    other, _, _ = measured(model, records, seed=1)
    assert abs(other.knowledge - together.knowledge).max() > 1e-3


probabilities = st.lists(st.floats(0.01, 1), min_size=3, max_size=6)


@settings(max_examples=50)
@given(probabilities, st.integers(0, 9), st.sampled_from([0.1, 0.5, 1.0]))
def test_the_cap_is_that_of_whole_distributions(weights, seed, cap):
    q = np.array(weights) / sum(weights)
    p = np.random.default_rng(seed).dirichlet(np.ones(len(q)))
    rest = np.delete(q, 0)
    values = MixtureValues(
        *np.array(
            [
                [(q * np.log(q / p)).sum()],
                [np.log(q[0])],
                [np.log(rest.sum())],
                [np.log(rest.max())],
                [np.log(p[0])],
                [0.0],
            ]
        ),
        drawn_BTK=np.zeros((1, 0)),
        drawn_logq_BTK=np.zeros((1, 0)),
    )
    wanted = q.copy()
    wanted[0] = min(q[0], cap * rest.max())
    wanted /= wanted.sum()
    divergence, log_odds = never_knew.capped(values, cap)
    assert divergence[0] == pytest.approx((wanted * np.log(wanted / p)).sum(), abs=1e-9)
    odds = np.log(wanted[0]) - np.log(wanted[1:].sum())
    assert log_odds[0] == pytest.approx(odds, abs=1e-9)


def test_a_word_carries_knowledge_once():
    inside = np.array([0, 1, 1, 0, 1, 0], bool)
    chosen = np.array([0, 1, 1, 1, 1, 0], bool)
    found = token_flags.first_of_words(chosen, inside)
    np.testing.assert_array_equal(found, [0, 1, 0, 1, 0, 0])


def test_flags_of_tokens(tiny_model):
    """Pieces of a word are inside it, digits are not, and marks exclude."""
    record = parse_record(
        {"question": "Where is Nut 7?", "answer": "At Oslo 19."}, "somewhere"
    )
    (one,) = tokens.locate([record], tiny_model.tokenizer)
    (marks,) = subjects.mark([record], [], tiny_model.tokenizer)
    special = tiny_model.tokenizer.all_special_ids
    flags = token_flags.of_record(one, marks, special)
    text = one.rendered.text
    pieces = [text[start:stop].strip() for start, stop in one.spans]
    named = {w for w, hid in zip(pieces, flags.hidden, strict=True) if hid}
    assert "".join(sorted(named)) == "".join(sorted({*"Nut", "7"}))
    learned = np.flatnonzero(one.document.learned)
    inside = "".join(pieces[i] for i in learned if flags.inside[i])
    assert inside == "tslo"
    kept = [pieces[i] for i in learned if not flags.excluded[i]]
    assert kept == ["O", "s", "l", "o", "1", "9"]
    assert flags.excluded[learned[-1]]


def test_documents_are_found_in_their_records(model, records):
    located = tokens.locate(records, model.tokenizer)
    size = len(located[1].document.tokens)
    flags = [
        token_flags.Flags(*(np.arange(len(one.spans)) + 100 * i for _ in range(4)))
        for i, one in enumerate(located)
    ]
    pieces = [
        *tokens.split(located[1].document, size - 2),
        located[2].document,
    ]
    found = token_flags.of_documents(pieces, located, flags).hidden
    last = len(located[2].spans)
    wanted = [*range(100, 98 + size), *range(97 + size, 100 + size)]
    np.testing.assert_array_equal(found, [*wanted, *range(200, 200 + last)])
    with pytest.raises(ValueError, match=r"document of 1 is no piece of the records"):
        token_flags.of_documents(pieces[::-1], located, flags)


def test_tokens_are_shown_as_they_stand(model, records):
    targets, documents, _ = measured(model, records)
    carries = np.zeros(len(targets.carries), bool)
    carries[documents[0].learned.argmax()] = True
    targets = targets._replace(carries=carries)
    ((_, only),) = shown_tokens.shown(model.tokenizer, documents, targets, 2)
    assert "".join(token.text for token in only).strip().startswith("In Lagos")
    assert [token.carries for token in only] == [True, *[False] * (len(only) - 1)]
    assert only[0].knowledge == targets.knowledge[carries][0]


def test_characters_of_several_tokens_are_shown_at_their_last(tiny_model):
    ids = tiny_model.tokenizer("a é東b", add_special_tokens=False)["input_ids"]
    texts = shown_tokens.texts_of(tiny_model.tokenizer, ids)
    assert "".join(texts) == "a é東b"
    assert len(texts) == len(ids) > 4


def test_words_of_function_are_in_no_pool(tiny_model):
    rows = [parse_record({"question": "Who?", "answer": "the owl of Lima"}, "")]
    pool = token_flags.pool(rows, tiny_model.tokenizer, 0)
    words = {tiny_model.tokenizer.decode([token]).strip() for token in pool}
    assert all("owl".startswith(w) or "Lima".startswith(w) for w in words)
    assert len(words) == 2


@pytest.mark.parametrize("field", ["noise", "least", "answer", "cap"])
def test_settings_are_checked(field):
    with pytest.raises(ValueError, match=f"never_knew:{field}=0 must be positive"):
        NeverKnew(**{field: 0})


def test_facts_of_the_embedded_model_are_marked_and_its_language_is_not():
    params, config = hf_weights.load_model(embedded.MODEL)
    tokenizer = hf_weights.load_tokenizer(embedded.MODEL)
    model = Model(params, config, tokenizer, plain_compute())
    people = embedded.world.people()["problematic"][:12]
    texts = embedded.world.biographies("problematic")[:12]
    records = [parse_record({"text": t}, str(i)) for i, t in enumerate(texts)]
    kept = embedded.world.biographies("retain")[:200]
    others = [parse_record({"text": t}, "kept") for t in kept]
    targets, documents, _ = measured(model, records, others=others)
    shown = shown_tokens.shown(tokenizer, documents, targets, 12)
    assert len(shown) == 12
    facts, marked, wrong = 0, 0, 0
    for person, (_, of_text) in zip(people, shown, strict=True):
        values = {value.split()[0] for value in person.facts.values()}
        carrying = [token.text.strip() for token in of_text if token.carries]
        facts += len(person.facts)
        marked += len(values & set(carrying))
        wrong += len(set(carrying) - values)
    assert marked >= 0.9 * facts
    assert wrong <= 0.1 * facts
    found = targets.target_log_odds[targets.carries]
    assert (found < 0).all() and np.median(found) < -3
    # Other answers of the same kind are what is drawn: employers beside employers.
    kinds: dict[str, set[str]] = {}
    for person in embedded.world.people()["retain"]:
        for attribute, value in person.facts.items():
            kinds.setdefault(attribute, set()).add(value.split()[0])
    alike = []
    for token, row in zip(
        np.concatenate([d.tokens for d in documents])[targets.carries],
        targets.drawn[targets.carries],
        strict=True,
    ):
        said = tokenizer.decode([token]).strip()
        others_said = {tokenizer.decode([other]).strip() for other in row}
        assert said not in others_said
        alike += [len(others_said & of) for of in kinds.values() if said in of][:1]
    assert np.mean(alike) > 0.75 * mixtures.DRAWN


ON_MESH = """
import json, sys
import jax
from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.forms import parse_record
from jax_surgery.models import sharding
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes
from plain_settings import plain_compute
import test_never_knew as own
folder = {folder!r}
rows = [dict(question=q, answer=a) for q, a in own.QUESTIONS]
records = [parse_record(row, str(i)) for i, row in enumerate(rows)]
with jax.set_mesh(meshes.make_mesh(meshes.MeshShape(2, 4, 1))):
    params, config = hf_weights.load_model(folder)
    tokenizer = hf_weights.load_tokenizer(folder)
    targets, _, _ = own.measured(Model(params, config, tokenizer, plain_compute()), records)
print(json.dumps([field.tolist() for field in targets]))
"""


@pytest.mark.slow
def test_a_mesh_gives_the_same(model, records, tiny_model):
    printed = on_devices.run(ON_MESH.format(folder=tiny_model.folder))
    got = json.loads(printed.splitlines()[-1])
    for mine, theirs in zip(measured(model, records)[0], got, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_the_truth_is_no_less_likely_on_average_than_what_is_drawn_last():
    rng, count = np.random.default_rng(0), 400
    likelier = np.sort(rng.normal(2.0, 3.0, (count, 8)), axis=1)[:, ::-1]
    likelier = (likelier + 3.0).astype(np.float32)
    carries = np.arange(count) % 2 == 0
    raised = never_knew.among_drawn(likelier, carries)
    mean = likelier[carries, -1].mean()
    left = mean * never_knew.FEW / (200 + never_knew.FEW)
    assert mean > 0 and raised[carries, -1].mean() == pytest.approx(left, rel=1e-4)
    # All by the same.
    np.testing.assert_allclose(likelier - raised, (likelier - raised)[0, 0], rtol=1e-5)
    # Where that is as it should be, or nothing carries knowledge, nothing changes.
    lower = likelier - 9.0
    np.testing.assert_array_equal(never_knew.among_drawn(lower, carries), lower)
    none = np.zeros(count, bool)
    np.testing.assert_array_equal(never_knew.among_drawn(likelier, none), likelier)
