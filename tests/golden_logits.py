# SPDX-License-Identifier: Apache-2.0
"""Logits of transformers' own models on small seeded weights, kept in golden/.

    python tests/golden_logits.py

writes golden/logits.npz with PyTorch and transformers; the parity test reads it where
PyTorch is not installed.
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / "golden" / "logits.npz"
BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA2 = BASE | {
    "model_type": "gemma2",
    "tie_word_embeddings": True,
    "num_key_value_heads": 2,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 9,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 5.0,
    "sliding_window": 5,
}
CASES = {
    "mha": BASE,
    "gqa": BASE | {"num_key_value_heads": 2, "rope_theta": 500.0},
    "tied": BASE | {"tie_word_embeddings": True},
    "llama3": BASE | {"num_key_value_heads": 1, "rope_scaling": LLAMA3},
    # 12 positions are fewer than the tokens, which is what scalings are for.
    **{
        name: BASE | {"max_position_embeddings": 12, "rope_scaling": scaling}
        for name, scaling in {
            "linear": {"type": "linear", "factor": 4.0},
            "dynamic": {"type": "dynamic", "factor": 4.0},
            "yarn": {"rope_type": "yarn", "factor": 4.0},
            "yarn, a scale of 0": {
                "rope_type": "yarn",
                "factor": 4.0,
                "mscale": 0.7,
                "mscale_all_dim": 0,
            },
            "yarn in full": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 24,
                "beta_fast": 6,
                "beta_slow": 0.5,
                "mscale": 0.7,
                "mscale_all_dim": 0.3,
                "truncate": False,
            },
            "base in scaling": {"rope_type": "default", "rope_theta": 300.0},
        }.items()
    },
    "swish, in parts": BASE | {"hidden_act": "swish", "pretraining_tp": 2},
    "biases": BASE | {"attention_bias": True, "mlp_bias": True},
    "qwen2": BASE | {"model_type": "qwen2", "num_key_value_heads": 2},
    "gemma2": GEMMA2,
    "gemma3": GEMMA2
    | {
        "model_type": "gemma3_text",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "sliding_window_pattern": 2,
        "rope_theta": 500.0,
        "rope_local_base_freq": 30.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
}
# Norms that Gemma's layers have beside Llama's, by their width.
GEMMA_NORMS = {
    "gemma2": {
        "pre_feedforward_layernorm": "hidden_size",
        "post_feedforward_layernorm": "hidden_size",
    }
}
GEMMA_NORMS["gemma3_text"] = GEMMA_NORMS["gemma2"] | {
    "self_attn.q_norm": "head_dim",
    "self_attn.k_norm": "head_dim",
}
# Matrices that have a bias, by the field of config.json or the family.
BIASED = {
    "attention_bias": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp_bias": ("gate_proj", "up_proj", "down_proj"),
    "qwen2": ("q_proj", "k_proj", "v_proj"),
}
TOKENS = np.random.default_rng(0).integers(0, BASE["vocab_size"], (2, 18))


def tensors(config: dict) -> dict[str, np.ndarray]:
    """Seeded weights by their Hugging Face names, float32."""
    rng = np.random.default_rng(7)
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (heads, width),
            f"{at}.self_attn.k_proj.weight": (kv, width),
            f"{at}.self_attn.v_proj.weight": (kv, width),
            f"{at}.self_attn.o_proj.weight": (width, heads),
            f"{at}.mlp.gate_proj.weight": (inner, width),
            f"{at}.mlp.up_proj.weight": (inner, width),
            f"{at}.mlp.down_proj.weight": (width, inner),
            f"{at}.input_layernorm.weight": (width,),
            f"{at}.post_attention_layernorm.weight": (width,),
        }
        for norm, size in GEMMA_NORMS.get(config["model_type"], {}).items():
            shapes[f"{at}.{norm}.weight"] = (config[size],)
    shapes["model.norm.weight"] = (width,)
    biased = {
        name
        for key, names in BIASED.items()
        if config.get(key) or config["model_type"] == key
        for name in names
    }
    shapes |= {
        name.replace(".weight", ".bias"): shape[:1]
        for name, shape in shapes.items()
        if name.split(".")[-2] in biased
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    return {
        name: (rng.normal(0, 0.4, shape) + ("norm" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }


def transformers_logits(config: dict) -> np.ndarray:
    """Logits of `TOKENS`, [2, 18, vocabulary], float32."""
    import torch
    import transformers

    wanted = transformers.AutoConfig.for_model(**config, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(wanted).eval()
    state = {k: torch.tensor(v) for k, v in tensors(config).items()}
    missing, unused = model.load_state_dict(state, strict=False)
    assert not unused and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **{k: transformers_logits(c) for k, c in CASES.items()})
