# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in PEFT's format: a round trip, PEFT itself, and what is refused."""

import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jax_surgery.checkpoints import hf_weights, peft_adapter
from jax_surgery.models import decoder, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.optim import lora

CASES = pathlib.Path(__file__).parents[2].parent / "shared" / "cases"
CONFIG = ModelConfig(48, 32, 64, 2, 4, 2, 8, bos_token_id=0, eos_token_id=1)
LOW_RANK = lora.LowRank(rank=4, alpha=6.0, matrices="q,v,o,up")


def random_factors(seed: int = 0):
    """Factors of which neither is 0."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: lora.init_factors(CONFIG, LOW_RANK, 0))
    return jax.tree.map(
        lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes
    )


def save(folder, factors, **changes):
    adapter = peft_adapter.Adapter(
        factors, LOW_RANK.rank, LOW_RANK.alpha, LOW_RANK.targets
    )
    peft_adapter.save_adapter(adapter, CONFIG, str(folder), "base")
    file = folder / peft_adapter.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_is_saved_is_loaded(tmp_path):
    factors = random_factors()
    save(tmp_path, factors)
    found = peft_adapter.load_adapter(str(tmp_path), CONFIG)
    assert found[1:] == (4, 6.0, ("q", "v", "o", "up"))
    jax.tree.map(np.testing.assert_array_equal, found.factors, factors)


def test_rank_stabilised_adapters_keep_their_scale(tmp_path):
    save(tmp_path, random_factors(), use_rslora=True)
    assert peft_adapter.load_adapter(str(tmp_path), CONFIG).alpha == 6.0 * 4**0.5


@pytest.mark.parametrize(
    "field, value",
    [
        ("use_dora", True),
        ("bias", "all"),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 8}),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("layer_replication", [[0, 2], [0, 2]]),
        ("trainable_token_indices", [0, 1]),
        ("target_parameters", ["experts.weight"]),
        ("use_qalora", True),
        ("megatron_config", {"a": 1}),
        ("alora_invocation_tokens", [3]),
        ("a_field_of_a_newer_peft", 0.5),
        # The model's own weights were changed as these began.
        *(
            ("init_lora_weights", how)
            for how in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga")
        ),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path, field, value):
    save(tmp_path, random_factors(), **{field: value})
    with pytest.raises(ValueError, match=f"{field}=.*merge_and_unload"):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)


def test_fields_of_no_effect_and_those_that_are_not_set_are_read(tmp_path):
    others = {"lora_dropout": 0.1, "layers_to_transform": [0], "peft_version": "9"}
    others |= {"init_lora_weights": "gaussian", "revision": "main", "new": None}
    save(tmp_path, random_factors(), **others)
    assert peft_adapter.load_adapter(str(tmp_path), CONFIG).rank == 4


def test_every_field_of_this_peft_is_read_unset_or_refused():
    """A field that PEFT adds is looked at before it is let through."""
    peft = pytest.importorskip("peft")
    fields = peft.LoraConfig(target_modules=["q_proj"]).to_dict()
    known = {*peft_adapter.READ, *peft_adapter.OF_NO_EFFECT, *peft_adapter.PLAIN}
    for name, value in fields.items():
        assert name in known or value in peft_adapter.UNSET, name


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"r": None}, "r=None must be a whole number"),
        ({"r": 0}, "r=0 must be"),
        ({"lora_alpha": "16"}, "lora_alpha='16' must be a number"),
    ],
)
def test_ranks_and_alphas_that_are_no_numbers_are_named(tmp_path, fields, said):
    save(tmp_path, random_factors(), **fields)
    with pytest.raises(ValueError, match=said):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)


def test_damaged_and_pickled_adapters_are_one_line(tmp_path):
    save(tmp_path, random_factors())
    weights = tmp_path / peft_adapter.WEIGHTS
    held = load_file(weights)
    one = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    whole = held[one]
    save_file(held | {one: whole.astype(np.int32)}, weights)
    with pytest.raises(ValueError, match="up_proj.lora_B.weight is I32; factors are"):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)
    del held[one]
    save_file(held, weights)
    with pytest.raises(ValueError, match=r"lora_A.weight and not .*up_proj.lora_B"):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors does not"):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"adapter_model\.bin .*weights_only=True"):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)
    (tmp_path / peft_adapter.CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is not JSON"):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)


def test_a_users_adapter_whose_base_was_changed_is_refused():
    case = CASES / "12-adapters"
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    config = hf_weights.load_config(str(case / "model"))
    with pytest.raises(ValueError, match="init_lora_weights='pissa'.*merge_and_unload"):
        peft_adapter.load_adapter(str(case / "pissa"), config)


def test_another_kind_or_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)
    save(tmp_path, random_factors())
    wider = ModelConfig(48, 64, 64, 2, 4, 2, 8)
    with pytest.raises(
        ValueError, match=r"q_proj.*\(4, 32\).*\(4, 64\).*another model"
    ):
        peft_adapter.load_adapter(str(tmp_path), wider)
    shallow = ModelConfig(48, 32, 64, 1, 4, 2, 8)
    with pytest.raises(ValueError, match=r"layers\.1\..*does not have"):
        peft_adapter.load_adapter(str(tmp_path), shallow)
    save(tmp_path, random_factors(), peft_type="IA3")
    with pytest.raises(ValueError, match="peft_type='IA3'"):
        peft_adapter.load_adapter(str(tmp_path), CONFIG)


def test_peft_runs_our_adapter_and_we_run_pefts(tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    import transformers

    params = decoder.init_params(CONFIG, 0)
    hf_weights.save_model(params, CONFIG, str(tmp_path / "base"))
    tokens = np.random.default_rng(0).integers(0, 48, (2, 9))

    def ours(adapter):
        low_rank = lora.LowRank(adapter.rank, adapter.alpha, ",".join(adapter.matrices))
        merged = lora.merge(jax.tree.map(np.copy, params), adapter.factors, low_rank)
        hidden = decoder.forward(merged, CONFIG, tokens)
        return np.asarray(hidden @ output_head.kernel(merged))

    def theirs(model):
        with torch.no_grad():
            return model(torch.from_numpy(tokens)).logits.numpy()

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")

    save(tmp_path / "ours", random_factors())
    loaded = peft.PeftModel.from_pretrained(base(), tmp_path / "ours")
    adapter = peft_adapter.load_adapter(str(tmp_path / "ours"), CONFIG)
    np.testing.assert_allclose(ours(adapter), theirs(loaded), atol=2e-4)

    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["k_proj", "down_proj"]
    )
    made = peft.get_peft_model(base(), settings)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_" in name:
                value.normal_(0, 0.3)
    made.save_pretrained(tmp_path / "theirs")
    adapter = peft_adapter.load_adapter(str(tmp_path / "theirs"), CONFIG)
    assert adapter.matrices == ("k", "down")
    np.testing.assert_allclose(ours(adapter), theirs(made), atol=2e-4)
