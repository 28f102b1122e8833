# SPDX-License-Identifier: Apache-2.0
"""Relearning against Adam on all logits, and what it brings back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_surgery import attacks
from jax_surgery.attacks import Budget, Target
from jax_surgery.attacks.base import ignore
from jax_surgery.attacks.relearning import Relearning
from jax_surgery.data.forms import parse_record
from jax_surgery.data.probes import Probe
from jax_surgery.data.tokens import encode
from jax_surgery.metrics import METRICS
from jax_surgery.models import decoder, flops, output_head
from jax_surgery.models.model import Model
from jax_surgery.train import finetune

CONTEXT, RATE = 32, 3e-3


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model(tiny_model.params, tiny_model.config, tiny_model.tokenizer)


@pytest.fixture(scope="module")
def records():
    rows = [
        {"prompt": f"the number {i} is", "answer": f" {i * 7 % 13}"} for i in range(8)
    ]
    return tuple(parse_record(row, f"a:{i}") for i, row in enumerate(rows))


def dense_loss(params, model, documents):
    """Mean negative log-likelihood of the learned tokens, each text alone in a row."""
    tokens = np.zeros((len(documents), CONTEXT), np.int32)
    learned = np.zeros(tokens.shape, bool)
    for row, d in enumerate(documents):
        tokens[row, : len(d.tokens)] = d.tokens
        learned[row, : len(d.tokens)] = d.learned
    hidden = decoder.forward(params, model.config, tokens)[:, :-1]
    logp = jax.nn.log_softmax(hidden @ output_head.kernel(params))
    own = jnp.take_along_axis(logp, tokens[:, 1:, None], -1)[..., 0]
    return -jnp.where(learned[:, 1:], own, 0).sum() / learned[:, 1:].sum()


def test_a_step_is_adams_on_the_mean_over_learned_tokens(model, records):
    """Each step of all texts, so that draws do not matter."""
    documents = encode(records[:3], model.tokenizer, CONTEXT)
    attack = Relearning(learning_rate=RATE, steps=2, texts=3, rows=2)
    found = attack(model, Target(records[:3], (), CONTEXT), Budget(), 0, ignore).model
    adam, params = optax.adam(RATE), model.params
    state = adam.init(params)
    step = jax.jit(
        lambda p, s: adam.update(jax.grad(dense_loss)(p, model, documents), s)
    )
    for _ in range(2):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    for left, right in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(params), strict=True
    ):
        # Adam divides small gradients by their own size.
        np.testing.assert_allclose(left, right, atol=0.1 * RATE)


def test_rows_beyond_the_text_have_no_weight(model, records):
    documents = encode(records[:2], model.tokenizer, CONTEXT)
    one, tokens = finetune.text_batch(documents, CONTEXT, 1)
    many, same = finetune.text_batch(documents, CONTEXT, 4)
    assert tokens == same == sum(len(d.tokens) for d in documents)
    assert np.asarray(many.weights_BT)[1:].sum() == 0
    loss = jax.jit(
        lambda b: finetune.cross_entropy(model.params, model.config, b, model.compute)
    )
    assert float(loss(one)) == pytest.approx(float(loss(many)), rel=1e-6)
    wanted = float(jax.jit(lambda p: dense_loss(p, model, documents))(model.params))
    assert float(loss(one)) == pytest.approx(wanted, rel=1e-5)


def test_texts_that_do_not_fit_the_rows_are_left_out(model, records):
    documents = encode(records, model.tokenizer, 8)
    batch, tokens = finetune.text_batch(documents, 8, 2)
    assert batch.tokens_BT.shape == (2, 8)
    assert tokens == int((np.asarray(batch.segment_ids_BT) > 0).sum())
    assert tokens < sum(len(d.tokens) for d in documents)


def test_it_learns_what_it_is_shown_and_counts_what_it_costs(model, records):
    shown = Probe("shown", CONTEXT, records=records)
    attack = Relearning(learning_rate=RATE, steps=40, texts=4, rows=2)
    found = attack(model, Target(records, (shown,), CONTEXT), Budget(), 0, ignore)
    accuracy = METRICS["answer_accuracy"]
    assert accuracy(model, shown).value < 0.3
    assert accuracy(found.model, shown).value > 0.9
    a_step = flops.training_flops(model.config, 2 * CONTEXT, CONTEXT)
    assert found.spent.flops == pytest.approx(40 * a_step)
    longest = max(len(d.tokens) for d in encode(records, model.tokenizer, CONTEXT))
    assert 40 * 4 < found.spent.tokens <= 40 * 4 * longest
    assert found.probes == (shown,)


def test_seeds_draw_different_texts(model, records):
    attack = Relearning(steps=1, texts=2, rows=2)
    target = Target(records, (), CONTEXT)
    one, other = (
        attack(model, target, Budget(), seed, ignore).model for seed in (0, 1)
    )
    leaves = lambda model: jax.tree.leaves(model.params)
    pairs = zip(leaves(one), leaves(other), strict=True)
    assert not all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("field", ["learning_rate", "steps", "texts"])
def test_options_are_positive(field):
    with pytest.raises(ValueError, match=f"relearning:{field}=0(.0)? must be positive"):
        attacks.parse(f"relearning:{field}=0")


@pytest.mark.parametrize("field", ["rows", "rank", "passes", "seed"])
def test_other_options_are_not_negative(field):
    with pytest.raises(ValueError, match=f"relearning:{field}=-1; use 0 or more"):
        attacks.parse(f"relearning:{field}=-1")


def moved(model, attack, target) -> list[np.ndarray]:
    """How far each leaf moves."""
    found = attack(model, target, Budget(), 0, ignore).model
    pairs = zip(
        jax.tree.leaves(found.params), jax.tree.leaves(model.params), strict=True
    )
    return [np.asarray(a - b) for a, b in pairs]


def test_the_first_step_of_lion_is_as_large_as_the_rate_and_that_of_sgd_is_the_gradient(
    model, records
):
    target = Target(records[:3], (), CONTEXT)
    few = {"steps": 1, "texts": 3, "rows": 2}
    lion = moved(model, Relearning(RATE, optimizer="lion", **few), target)
    assert max(np.abs(leaf).max() for leaf in lion) == pytest.approx(RATE, rel=1e-3)
    documents = encode(records[:3], model.tokenizer, CONTEXT)
    slope = jax.jit(jax.grad(lambda p: dense_loss(p, model, documents)))(model.params)
    sgd = moved(model, Relearning(RATE, optimizer="sgd", **few), target)
    for got, wanted in zip(sgd, jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(got, -RATE * wanted, atol=2e-6)


def test_low_rank_deltas_move_matrices_alone_and_by_that_rank(model, records):
    attack = Relearning(RATE, steps=3, texts=3, rows=2, rank=1)
    target = Target(records[:3], (), CONTEXT)
    seen = []
    watch = lambda spent, model, **_: seen.append((spent.flops, model))
    found = attack(model, target, Budget(), 0, watch).model
    whole = Relearning(RATE, steps=1, texts=3, rows=2)
    spent = whole(model, target, Budget(), 0, ignore).spent
    assert 0 < seen[1][0] < spent.flops
    base = found.params["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(base, model.params["layers"]["mlp"]["up"]["kernel"])
    up = found.params["layers"]["mlp"]["up"]
    assert up["lora_a"].shape[-1] == 1 and np.abs(up["lora_b"]).max() > 0
    documents = encode(records[:3], model.tokenizer, CONTEXT)
    batch, _ = finetune.text_batch(documents, CONTEXT, 2)
    losses = [
        float(finetune.cross_entropy(m.params, m.config, batch, m.compute))
        for m in (model, found)
    ]
    assert losses[1] < losses[0]


def test_passes_read_each_text_once_and_the_rate_falls_to_nothing(model, records):
    spent = []
    watch = lambda used, model, **_: spent.append(used)
    attack = Relearning(RATE, texts=3, rows=0, passes=2, schedule="linear", on="all")
    target = Target((), (), CONTEXT, removed=records)
    attack(model, target, Budget(), 0, watch)
    steps = 2 * -(-len(records) // 3)
    assert [one.steps for one in spent] == list(range(steps + 1))
    documents = encode(records, model.tokenizer, CONTEXT)
    assert spent[-1].tokens == 2 * sum(len(d.tokens) for d in documents)


def test_what_there_is_no_text_for_is_refused(model, records):
    target = Target(records, (), CONTEXT, retained=lambda: records)
    attack = attacks.parse("relearning:on=related")
    with pytest.raises(ValueError, match="on=related needs such text.*data.related"):
        attack(model, target, Budget(), 0, ignore)
    assert not attacks.parse("relearning:on=retained").lacks(target)


def test_the_seed_of_a_grid_draws_other_texts(model, records):
    target = Target(records, (), CONTEXT)
    how = {"steps": 2, "texts": 3, "rows": 2}
    one, same, other = (
        moved(model, Relearning(RATE, seed=seed, **how), target) for seed in (0, 0, 1)
    )
    assert all(map(np.array_equal, one, same))
    assert not all(map(np.array_equal, one, other))
