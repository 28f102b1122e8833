# SPDX-License-Identifier: Apache-2.0
"""Weights from and to Hugging Face: parity with transformers, exact round trips."""

import dataclasses
import json
from typing import Any

import golden_logits
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architecture_cases import forward
from etils.epath import backend
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jax_surgery.checkpoints import hf_index, hf_weights, hub
from jax_surgery.data.bpe import train_bpe
from jax_surgery.models import decoder, logprobs, output_head
from jax_surgery.models.architectures import from_hf, to_hf
from jax_surgery.models.config import ModelConfig, RopeScaling
from jax_surgery.parallel import progress

BASE = ModelConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=56,
    num_layers=3,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    max_positions=64,
    bos_token_id=0,
    eos_token_id=1,
    initializer_range=0.2,
)
CONFIGS = {
    "mha": BASE,
    "gqa": dataclasses.replace(BASE, num_kv_heads=2, rope_theta=500.0),
    "tied": dataclasses.replace(BASE, tie_embeddings=True, head_dim=6),
    "llama3": dataclasses.replace(
        BASE, num_kv_heads=1, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 16)
    ),
}


def save(tmp_path, config, dtype="float32", **options):
    params = jax.tree.map(
        lambda x: x.astype(dtype) + 0.01, decoder.init_params(config, 0)
    )
    hf_weights.save_model(params, config, str(tmp_path), dtype=dtype, **options)
    return params


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_agree_with_transformers(tmp_path, name):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    import transformers

    config = CONFIGS[name]
    params = save(tmp_path, config)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = np.random.default_rng(0).integers(0, 97, (2, 24))
    with torch.no_grad():
        wanted = model(torch.tensor(tokens)).logits.numpy()
    head = output_head.kernel(params)
    got = decoder.forward(params, config, jnp.asarray(tokens)) @ head
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)

    # Padded: the second row's last 9 tokens do not exist.
    mask = np.ones_like(tokens)
    mask[1, 15:] = 0
    with torch.no_grad():
        padded = model(torch.tensor(tokens), attention_mask=torch.tensor(mask))
    got = decoder.forward(params, config, jnp.asarray(tokens), jnp.asarray(mask)) @ head
    real = mask.astype(bool)
    np.testing.assert_allclose(
        np.asarray(got)[real], padded.logits.numpy()[real], rtol=1e-4, atol=1e-4
    )

    # Packed: two documents in a row are the two documents.
    segments = np.array([[1] * 10 + [2] * 14])
    positions = np.concatenate([np.arange(10), np.arange(14)])[None]
    got = decoder.forward(params, config, tokens[:1], segments, positions) @ head
    for part in (slice(0, 10), slice(10, 24)):
        with torch.no_grad():
            alone = model(torch.tensor(tokens[:1, part])).logits.numpy()
        np.testing.assert_allclose(got[:, part], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", golden_logits.CASES)
def test_logits_agree_with_those_kept_from_transformers(tmp_path, name):
    """Needs no PyTorch; its weights and `config.json` are not written by us."""
    config = golden_logits.CASES[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(golden_logits.tensors(config), tmp_path / "model.safetensors")
    params, read = hf_weights.load_model(str(tmp_path))
    hidden = forward(params, read, golden_logits.TOKENS)
    wanted = np.load(golden_logits.FILE)[name]
    got = logprobs.logits(hidden, output_head.of(params, read))
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_kept_logits_are_those_of_transformers():
    pytest.importorskip("torch", reason="parity needs PyTorch")
    kept = np.load(golden_logits.FILE)
    assert set(kept) == set(golden_logits.CASES)
    for name, config in golden_logits.CASES.items():
        fresh = golden_logits.transformers_logits(config)
        np.testing.assert_allclose(kept[name], fresh, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gqa", "tied"])
def test_load_then_export_is_bit_exact(tmp_path, name, dtype):
    first, second = tmp_path / "a", tmp_path / "b"
    save(first, CONFIGS[name], dtype)
    params, config = hf_weights.load_model(str(first), dtype=None)
    assert config == CONFIGS[name]
    hf_weights.save_model(params, config, str(second), max_shard_bytes=20_000)
    assert len(list(second.glob("*.safetensors"))) > 2
    again, _ = hf_weights.load_model(str(second), dtype=None)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        assert a.dtype == b.dtype == jnp.dtype(dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    whole = load_file(first / "model.safetensors")
    index = json.loads((second / hf_index.INDEX).read_text())["weight_map"]
    assert set(index) == set(whole)
    for tensor, file in index.items():
        with safe_open(second / file, framework="numpy") as opened:
            assert opened.get_tensor(tensor).tobytes() == whole[tensor].tobytes()


def test_missing_unused_and_misshapen_tensors_are_all_listed(tmp_path):
    save(tmp_path, BASE)
    tensors = dict(load_file(tmp_path / "model.safetensors"))
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(3, np.float32)
    tensors["model.norm.weight"] = np.zeros(5, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        hf_weights.load_model(str(tmp_path))
    message = str(error.value)
    assert "missing tensors (1): model.layers.1.mlp.up_proj.weight" in message
    assert "unused tensors (1): model.layers.0.self_attn.q_proj.bias" in message
    assert "misshapen tensors (1): model.norm.weight (5,), wanted (32,)" in message


def test_pickled_weights_name_the_conversion(tmp_path):
    save(tmp_path, BASE)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="save_pretrained"):
        hf_weights.load_model(str(tmp_path))


def test_absent_directories_and_shards_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        hf_weights.load_model(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        hf_weights.load_model(str(tmp_path))
    save(tmp_path, BASE, max_shard_bytes=20_000)
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    with pytest.raises(FileNotFoundError, match="shards that are absent"):
        hf_weights.load_model(str(tmp_path))


@pytest.mark.parametrize("name", CONFIGS)
def test_both_forms_of_config_json_are_read(name):
    config = CONFIGS[name]
    old = to_hf(config)
    assert from_hf(old) == config
    new = {k: v for k, v in old.items() if k not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {"rope_type": "default"} | (old["rope_scaling"] or {})
    new["rope_parameters"]["rope_theta"] = config.rope_theta
    assert from_hf(new) == config
    import transformers

    assert from_hf(transformers.LlamaConfig(**old).to_dict()) == config


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "gemma"}, "supported are llama, mistral, qwen2, qwen3"),
        ({"vocab_size": "97"}, "vocab_size='97'; it must be a whole number"),
        ({"head_dim": 0}, "head_dim=0; use 1 to"),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers=10000000; models have"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan; it must be a number"),
        ({"rope_theta": "big"}, "rope_theta='big'; it must be a number above 1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'; it must be true"),
        ({"initializer_range": -1}, "initializer_range=-1; .* a number of 0 or more"),
        ({"eos_token_id": [1, -2]}, r"eos_token_id=\[1, -2\]; it must be a token id"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5; only 1.0"),
        ({"rope_parameters": {"full_attention": {}}}, "one set of fields"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method='gptq'"),
        ({"rope_scaling": {"rope_type": "su", "factor": 2.0}}, "rope type 'su'"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor=0; it must be"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "lacks low_freq"),
    ],
)
def test_what_the_model_lacks_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_hf(to_hf(BASE) | change)


@pytest.mark.parametrize(
    "change, read",
    [
        ({"eos_token_id": []}, {"eos_token_id": ()}),
        ({"initializer_range": 0}, {"initializer_range": 0}),
    ],
)
def test_no_end_token_and_no_spread_are_read(change, read):
    config = from_hf(to_hf(BASE) | change)
    assert {name: getattr(config, name) for name in read} == read
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config


def test_a_process_asks_the_hub_once_for_a_model(tmp_path, monkeypatch):
    import huggingface_hub

    save(tmp_path / "a", BASE)
    answers = iter([OSError("no network"), str(tmp_path / "a")])
    asked = []

    def snapshot_download(source, **options):
        asked.append(source)
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    hub.downloaded.cache_clear()
    try:
        with pytest.raises(FileNotFoundError, match="OSError: no network"):
            hf_weights.load_config("someone/small")
        assert hf_weights.load_model("someone/small")[1] == BASE
        assert hf_weights.load_config("someone/small") == BASE
        assert asked == ["someone/small"] * 2  # the first failed
    finally:
        hub.downloaded.cache_clear()


def test_fields_that_a_config_json_lacks_are_named():
    raw = to_hf(BASE)
    del raw["vocab_size"], raw["num_attention_heads"]
    with pytest.raises(ValueError, match="lacks vocab_size, num_attention_heads; take"):
        from_hf(raw)


def test_an_export_carries_its_tokenizer(tmp_path):
    import transformers

    tokenizer = train_bpe(["a small text to learn from"], 280)
    tokenizer.save_pretrained(tmp_path / "a")
    config = dataclasses.replace(BASE, vocab_size=len(tokenizer))
    save(tmp_path / "a", config)
    save(tmp_path / "b", config, tokenizer_source=str(tmp_path / "a"))
    again: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
    text = "a small test"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.chat_template == tokenizer.chat_template
    assert hf_weights.load_tokenizer(str(tmp_path / "b")).eos_token_id == 1


def test_a_bucket_holds_a_checkpoint_as_a_folder_does(tiny_model, bucket):
    bucket += "/model"
    hf_weights.save_model(
        tiny_model.params,
        tiny_model.config,
        bucket,
        tokenizer_source=tiny_model.folder,
        max_shard_bytes=10_000,
    )
    params, config = hf_weights.load_model(bucket)
    assert config == tiny_model.config
    for a, b in zip(
        jax.tree.leaves(params), jax.tree.leaves(tiny_model.params), strict=True
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    tokenizer = hf_weights.load_tokenizer(bucket)
    assert tokenizer.get_vocab() == tiny_model.tokenizer.get_vocab()
    with pytest.raises(FileNotFoundError, match="gs://bucket/other' does not exist"):
        hf_weights.load_model("gs://bucket/other")


def test_a_bucket_without_what_reads_it_names_the_extra(monkeypatch):
    def absent(path):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(backend.fsspec_backend, "fs", absent)
    with pytest.raises(ValueError, match=r"Please install gcsfs.*extra `gcs`"):
        hf_weights.load_model("gs://bucket/model")


def test_an_export_replaces_the_one_before(tmp_path):
    save(tmp_path, BASE, max_shard_bytes=20_000)
    (tmp_path / "notes.safetensors.txt").write_text("mine")
    params = save(tmp_path, CONFIGS["gqa"])
    assert {f.name for f in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "notes.safetensors.txt",
    }
    again, config = hf_weights.load_model(str(tmp_path))
    assert config == CONFIGS["gqa"]
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_dtypes_that_are_not_read_and_layers_that_differ_are_named(tmp_path):
    save(tmp_path, BASE)
    with pytest.raises(ValueError, match="dtype 'float8'; choose one of float32"):
        hf_weights.load_model(str(tmp_path), "float8")
    tensors = dict(load_file(tmp_path / "model.safetensors"))
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(np.float16)
    save_file(tensors, tmp_path / "model.safetensors")
    hf_weights.load_model(str(tmp_path), "bfloat16")
    with pytest.raises(ValueError, match=f"{name} is float16 and other layers' are"):
        hf_weights.load_model(str(tmp_path), None)
    tensors[name] = tensors[name].astype(np.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"none of F64, F32, BF16, F16 \(1\): {name} I8"
    ):
        hf_weights.load_model(str(tmp_path))


def test_numbers_too_large_for_the_files_dtype_are_not_written(tmp_path):
    params = decoder.init_params(BASE, 0)
    params["final_norm"]["scale"] = params["final_norm"]["scale"] * 1e6
    with pytest.raises(
        ValueError, match="model.norm.weight holds numbers that float16"
    ):
        hf_weights.save_model(params, BASE, str(tmp_path), dtype="float16")


def test_long_loads_and_saves_show_how_far_they_are(tmp_path, monkeypatch, capsys):
    save(tmp_path, BASE)
    assert not capsys.readouterr().err
    monkeypatch.setattr(progress, "LONG", 0)
    params, _ = hf_weights.load_model(str(tmp_path))
    assert "loading weights: " in capsys.readouterr().err
    hf_weights.save_model(params, BASE, str(tmp_path))
    assert "saving weights: " in capsys.readouterr().err
