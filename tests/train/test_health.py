# SPDX-License-Identifier: Apache-2.0
"""A model that forgets what it is to retain is seen, however small its vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_settings import plain_compute
from settings_cases import plain_surgery

from jax_surgery.data.packing import Packer
from jax_surgery.data.role_texts import RoleTexts
from jax_surgery.data.tokens import Document
from jax_surgery.methods.descent import descend
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.generate import greedy_generate
from jax_surgery.models.model import Model
from jax_surgery.train import loop
from jax_surgery.train.health import LOST, Health

WORDS = 16  # of the vocabulary: a model that knows nothing costs 2.77 nats per token


@pytest.fixture(scope="module")
def model():
    """A model that is sure of what it says."""
    config = ModelConfig(WORDS, 16, 32, 2, 2, 1, 8, bos_token_id=0, eos_token_id=None)
    params = jax.tree.map(lambda x: 3 * x, decoder.init_params(config, 1))
    params["head"]["kernel"] *= 100
    return Model(params, config, None, plain_compute())


@pytest.fixture(scope="module")
def text(model):
    """What the model says after some prompts."""
    prompts = [[i, (7 * i) % WORDS] for i in range(WORDS)]
    said = greedy_generate(model.params, model.config, prompts, 12)
    tokens = [
        np.array(p + list(s), np.int32) for p, s in zip(prompts, said, strict=True)
    ]
    learned = [np.arange(len(t)) >= 2 for t in tokens]
    return Packer(
        [Document(*pair, "") for pair in zip(tokens, learned, strict=True)],
        32,
        "tokens",
    )


def with_head(model, change):
    head = {"kernel": change(model.params["head"]["kernel"])}
    return model.with_params(model.params | {"head": head})


@pytest.fixture(scope="module")
def health(model, text):
    return Health(model, text)


def test_the_model_before_is_the_measure(health, model):
    assert health.before < 0.5
    assert health.uniform == pytest.approx(np.log(WORDS))
    assert health.limit < health.uniform
    assert health.problem(model) == ""
    # Less sure, and right all the same.
    assert health.problem(with_head(model, lambda kernel: 0.5 * kernel)) == ""


@pytest.mark.parametrize("what", ["every token alike", "one token alone", "turned"])
def test_a_model_that_collapsed_is_seen(health, model, what):
    change = {
        "every token alike": lambda kernel: 0 * kernel,
        "one token alone": lambda kernel: kernel.at[:, 3].multiply(50.0),
        "turned": lambda kernel: -kernel,
    }[what]
    worse = with_head(model, change)
    said = health.problem(worse)
    assert f"{health.nats(worse):.3g} nats per token" in said
    assert "2.77 where every token is equally likely" in said
    # No term of such a small vocabulary is ever 20 times its first values.
    assert health.uniform < loop.EXPLODED


def test_a_model_that_knew_nothing_cannot_collapse(model, text):
    ignorant = with_head(model, lambda kernel: 0 * kernel)
    health = Health(ignorant, text)
    assert health.before == pytest.approx(health.uniform)
    assert health.problem(with_head(model, lambda kernel: -kernel)) == ""


def test_the_limit_lies_between_the_model_before_and_log_v(health):
    share = (health.limit - health.before) / (health.uniform - health.before)
    assert share == pytest.approx(LOST)


def test_a_run_that_makes_every_token_alike_stops(model, text, tmp_path):
    """Weights that decay to 0 never make a term explode."""
    parts = [text.documents[:4], text.documents[4:8], text.documents[8:]]
    packers = {
        role: Packer(documents, 32, "sequences")
        for role, documents in zip(("unlearn", "update", "retain"), parts, strict=True)
    }
    rows = {f"data.rows_{role}": 1 for role in packers}
    settings = plain_surgery(
        **rows,
        **{
            "objective.kl_direction": "reference_to_model",
            "optimizer.learning_rate": 1e-3,
            "optimizer.weight_decay": 200.0,
            "optimizer.schedule": "constant",
            "loop.checkpoint_every": 1,
            "steps": 40,
        },
    )
    copy = model.with_params(jax.tree.map(jnp.copy, model.params))
    texts = RoleTexts(packers, packers["retain"])
    with pytest.raises(loop.TrainingDiverged, match="the model has collapsed") as error:
        descend(copy, texts, settings, str(tmp_path))
    assert "config.optimizer.learning_rate" in str(error.value)
    assert not (tmp_path / "model").exists()
