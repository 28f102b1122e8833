# SPDX-License-Identifier: Apache-2.0
"""A surgery by each architecture's name; one of them is added from outside here."""

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jax_surgery.checkpoints import hf_weights
from jax_surgery.models import decoder
from jax_surgery.models.architectures import ARCHITECTURES
from jax_surgery.models.architectures.base import Architecture
from jax_surgery.models.blocks import Attention, Block, RMSNorm
from jax_surgery.models.layout import DECODER, row
from jax_surgery.runs import start


class AfterNorm(Attention):
    """Attention whose output is normed before it joins the residual stream."""

    def __init__(self, c, *, rngs):
        super().__init__(c, rngs=rngs)
        self.after = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def output(self, context_BTNH):
        context, y = super().output(context_BTNH)
        return context, self.after(y)


class AfterNormBlock(Block):
    attention_class = AfterNorm


AFTER_NORM = Architecture(
    model_type="after_norm",
    class_name="AfterNormForCausalLM",
    layout=(
        *DECODER,
        row("layers/attention/after/scale", "self_attn.after_norm", "D", "-"),
    ),
    block=AfterNormBlock,
)
ALL_PARAMETERS = {
    "optimizer.name": "adamw",
    "optimizer.matrices": "",
    "optimizer.first_layer": 0,
    "optimizer.learning_rate": 1e-2,
}
LORA = ALL_PARAMETERS | {"lora.rank": 2, "lora.matrices": "q,down"}
GEMMA2 = {"windows": (6, 0), "attention_softcap": 2.0, "final_softcap": 5.0}
GEMMA3 = {"windows": (6, 0), "local_rope_theta": 100.0, "rope_theta": 1000.0}
# What differs from the tiny model, the run's fields ({}: the surgery's own optimizer),
# and a tensor that moves.
CASES = {
    "after_norm": ({}, ALL_PARAMETERS, "layers.0.self_attn.after_norm"),
    "mistral": ({"windows": (6, 6)}, {}, "layers.1.mlp.down_proj"),
    "qwen2": ({}, ALL_PARAMETERS, "layers.0.self_attn.q_proj"),
    "qwen3": ({}, ALL_PARAMETERS, "layers.0.self_attn.q_norm"),
    "gemma2": (GEMMA2, LORA, "layers.1.mlp.down_proj"),
    "gemma3_text": (GEMMA3, {}, "layers.1.mlp.down_proj"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_surgery_loads_changes_and_exports_it(
    name, tiny_model, write_texts, tmp_path, monkeypatch
):
    monkeypatch.setitem(ARCHITECTURES, AFTER_NORM.model_type, AFTER_NORM)
    own, fields, moved = CASES[name]
    source, workdir = tmp_path / "source", tmp_path / "run"
    config = dataclasses.replace(
        tiny_model.config,
        architecture=name,
        # Padded, as published models are: Qwen2's tokenizer adds a token of its own.
        vocab_size=tiny_model.config.vocab_size + 8,
        biases=ARCHITECTURES[name].biased,
        **own,
    )
    params = jax.tree.map(lambda x: 3 * x, decoder.init_params(config, 1))
    hf_weights.save_model(
        params, config, str(source), tokenizer_source=tiny_model.folder
    )
    run = importlib.import_module("configs.surgery").get_config()
    texts = tiny_model.texts
    run.update_from_flattened_dict(
        {
            "model": str(source),
            "data.unlearn": write_texts("unlearn", texts[:3]),
            "data.update": write_texts("update", [f"{t} or so" for t in texts[:3]]),
            "data.retain": write_texts("retain", texts[3:]),
            "data.rows_unlearn": 1,
            "data.rows_update": 1,
            "data.context": 32,
            "data.surprise": 0.0,
            "data.questions": "",
            "steps": 2,
            "loop.checkpoint_every": 0,
            **fields,
        }
    )
    start.start(run, str(workdir))
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["roles"]) == {"unlearn", "update", "retain"}
    before, after = (
        load_file(folder / "model.safetensors")
        for folder in (source, workdir / "model")
    )
    assert set(before) == set(after)
    assert np.any(before[f"model.{moved}.weight"] != after[f"model.{moved}.weight"])
    cards = [
        json.loads((folder / "config.json").read_text())
        for folder in (source, workdir / "model")
    ]
    assert cards[0] == cards[1]
    assert cards[1]["model_type"] == name
    assert hf_weights.load_config(str(workdir / "model")) == config
