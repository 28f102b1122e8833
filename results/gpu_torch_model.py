# SPDX-License-Identifier: Apache-2.0
"""`transformers`' Llama for results/gpu_torch.py: its weights, attention and deltas."""

from collections.abc import Iterator
from typing import Any

import gpu_cases
import gpu_weights

ATTENTION = "rows"
LIKE_KEYS = {f"{name}_proj": name for name in gpu_weights.MATRICES}


def _attend(module, query, key, value, mask, *, scaling, cumulative=None, **others):
    """Causal attention of [b, heads, t, width]; of texts packed in one row where
    `cumulative` says where each begins."""
    import torch

    del module, mask
    if cumulative is None:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2), None
    longest = others["longest"]
    if query.is_cuda:
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
        out = torch.ops.aten._flash_attention_forward(
            *(q, k, v, cumulative, cumulative, longest, longest, 0.0, True, False),
            scale=scaling,
        )[0]
        return out.unsqueeze(0), None
    place = torch.arange(query.shape[2])
    text = torch.searchsorted(cumulative, place, right=True)
    seen = (text[:, None] == text) & (place[:, None] >= place)
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2), None


def make_low_rank() -> Any:
    """A class of frozen linear layers with a low-rank delta, its factors in float32 as
    ours. One for all layers: what is compiled for one then serves the others."""
    import torch

    class LowRank(torch.nn.Module):
        moves = True  # of all; False runs the base alone

        def __init__(self, linear: Any, name: str, layer: int, rank: int):
            super().__init__()
            self.base = linear
            inputs, outputs = linear.in_features, linear.out_features
            device = linear.weight.device
            self.of = (f"{name} a", layer, (inputs, rank), (3 * inputs) ** -0.5, device)
            self.a = torch.nn.Parameter(torch.empty(inputs, rank, device=device))
            self.b = torch.nn.Parameter(torch.empty(rank, outputs, device=device))
            self.scale = 16.0 / rank

        def begin(self):
            """Makes a delta that is 0."""
            self.a.copy_(gpu_weights.for_torch(*self.of))
            self.b.zero_()

        def forward(self, x):
            y = self.base(x)
            if not LowRank.moves:
                return y
            a, b = self.a.to(x.dtype), (self.scale * self.b).to(x.dtype)
            return y + (x @ a) @ b

    return LowRank


def exact(case: gpu_cases.Case, model: Any, device: str) -> Iterator[tuple[Any, Any]]:
    """Each matrix of a model with its values in float32, one after another."""
    sizes = gpu_weights.deviations(case.config)
    for path, weight in model.named_parameters():
        keys = path.split(".")
        if "norm" in path:
            continue
        key = keys[-2]
        name = {"embed_tokens": "embedding", "lm_head": "head"}.get(key)
        name = name or LIKE_KEYS[key]
        layer = int(keys[2]) if "layers" in keys else 0
        turned = name != "embedding"  # PyTorch's are [outputs, inputs]
        shape = tuple(weight.shape[::-1] if turned else weight.shape)
        made = gpu_weights.for_torch(name, layer, shape, sizes[name], device)
        yield weight, made.T if turned else made


def make_model(case: gpu_cases.Case, device: str) -> Any:
    """`transformers`' Llama with the case's weights, bfloat16."""
    import torch
    import transformers

    from jax_surgery.models import architectures

    config = case.config
    transformers.AttentionInterface.register(ATTENTION, _attend)
    written = architectures.of(config).write(config)
    standard = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**written))
    torch.set_default_dtype(standard)
    model = model.to_empty(device=device)
    model.tie_weights()
    # Buffers of the frequencies are no weights; they are computed anew.
    with torch.device(device):
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.config._attn_implementation = ATTENTION
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "norm" in path:
                weight.fill_(1.0)
        for weight, values in exact(case, model, device):
            weight.copy_(values)
    return model.requires_grad_(not case.rank).train()
