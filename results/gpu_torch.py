# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of results/gpu_speed.py: the same step, with `transformers`' Llama.

The model is bfloat16. Where all parameters move, the optimizer holds them in float32
too, as DeepSpeed and Megatron do, which is faster than autocast. Nothing gives a mask:
padded texts are causal and padded on the right, so PyTorch's SDPA takes its flash
attention; packed texts take the flash kernel for texts of different lengths. The packed
loop also reads the logits of learned tokens alone, and is compiled layer by layer.
"""

import time
from collections.abc import Callable
from typing import Any

import gpu_cases
import gpu_torch_model
import numpy as np
import torch_loop


def _cross_entropy(logits, labels):
    """Sum of -log p over the labels, nats."""
    return torch_loop._cross_entropy(logits, labels, None, None)


def _divergence(logits, reference, real):
    """Sum over real positions of KL(reference || model), nats."""
    return torch_loop._divergence(logits, None, real, reference)


def _layer(layer, *arguments, **named):
    """One layer; compiled once for all, since only weights differ."""
    return layer(*arguments, **named)


class Loop:
    """The model, its frozen copy, the optimizer, and a step in any of the settings."""

    def __init__(self, case: gpu_cases.Case, batches: list[Any], device: str):
        """Makes the weights."""
        self.case, self.batches, self.device, self.done = case, batches, device, 0
        self.model = gpu_torch_model.make_model(case, device)
        self.deltas = []
        if case.rank:
            self.reference = self.model
            self.low_rank = gpu_torch_model.make_low_rank()
            for layer, block in enumerate(self.model.model.layers):
                for part in (block.self_attn, block.mlp):
                    for key, name in gpu_torch_model.LIKE_KEYS.items():
                        if hasattr(part, key):
                            linear = getattr(part, key)
                            new = self.low_rank(linear, name, layer, case.rank)
                            setattr(part, key, new)
                            self.deltas.append(new)
        else:
            self.reference = gpu_torch_model.make_model(case, device).requires_grad_(
                False
            )
        self.moving = [p for p in self.model.parameters() if p.requires_grad]
        # What the optimizer moves: the factors themselves, or float32 copies.
        self.masters = self.moving
        if not case.rank:
            self.masters = [p.detach().float().requires_grad_() for p in self.moving]
        self.inputs: dict[gpu_cases.Torch, list] = {}
        self.layers: dict[bool, Any] = {False: _layer, True: None}
        self.losses: dict[bool, Any] = {False: (_cross_entropy, _divergence)}
        self.begin()

    def begin(self) -> None:
        """The weights as they were made, and an optimizer without moments."""
        import torch

        self.done = 0
        self.optimizer: Any = None
        with torch.no_grad():
            for delta in self.deltas:
                delta.begin()
            if not self.case.rank:
                exact = dict(zip(map(id, self.moving), self.masters, strict=True))
                for weight, values in gpu_torch_model.exact(
                    self.case, self.model, self.device
                ):
                    exact[id(weight)].copy_(values)
                for path, weight in self.model.named_parameters():
                    if "norm" in path:
                        exact[id(weight)].fill_(1.0)
                torch._foreach_copy_(self.moving, self.masters)
        self.optimizer = torch.optim.AdamW(
            self.masters,
            lr=gpu_cases.LEARNING_RATE,
            weight_decay=0.0,
            fused=self.device == "cuda",
        )

    def _compile(self) -> None:
        import torch

        self.layers[True] = torch.compile(_layer, dynamic=False)
        self.losses[True] = tuple(torch.compile(f) for f in self.losses[False])

    def _hidden(self, model, batch, compiled):
        """Final hidden states of a micro-batch."""
        inner, run = model.model, self.layers[compiled]
        hidden = inner.embed_tokens(batch["ids"])
        turns = inner.rotary_emb(hidden, position_ids=batch["positions"])
        more = {k: batch[k] for k in ("cumulative", "longest") if k in batch}
        for layer in inner.layers:
            hidden = run(
                layer,
                hidden,
                attention_mask=None,
                position_ids=batch["positions"],
                position_embeddings=turns,
                **more,
            )
        return inner.norm(hidden)

    def _frozen(self, batch, compiled):
        """The reference's hidden states, without a gradient."""
        import torch

        if self.deltas:
            self.low_rank.moves = False
        with torch.no_grad():
            hidden = self._hidden(self.reference, batch, compiled)
        if self.deltas:
            self.low_rank.moves = True
        return hidden

    def _loss(self, role: str, batch, choice: gpu_cases.Torch):
        """The sum of a role's term over a micro-batch."""
        compiled = choice.compiled
        entropy, divergence = self.losses[compiled]
        reference = None
        if role == "retain":
            reference = self._frozen(batch, compiled)
        hidden = self._hidden(self.model, batch, compiled)
        head = self.model.lm_head
        if reference is None:
            if choice.packed:
                hidden = hidden[0, batch["read"]]
            return entropy(head(hidden), batch["labels"])
        return divergence(
            head(hidden), self.reference.lm_head(reference), batch["real"]
        )

    def step(self, choice: gpu_cases.Torch) -> list[Any]:
        """One optimizer step; the terms of its loss, on the device."""
        import torch

        if choice not in self.inputs:
            self.inputs[choice] = [
                _micro_batches(self.case, batch, choice, self.device)
                for batch in self.batches
            ]
        if choice.compiled and self.layers[True] is None:
            self._compile()
        roles = self.inputs[choice][self.done % len(self.batches)]
        self.done += 1
        terms = []
        for role, (batches, total) in roles.items():
            sign, found = (-1.0 if role == "unlearn" else 1.0), []
            for batch in batches:
                loss = self._loss(role, batch, choice)
                (sign * loss / total).backward()
                found.append(loss.detach() / total)
            terms.append(torch.stack(found).sum())
        self._update()
        return terms

    def _update(self) -> None:
        import torch

        copied = self.masters is not self.moving
        if copied:
            for master, weight in zip(self.masters, self.moving, strict=True):
                master.grad = weight.grad.float()
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if copied:
            with torch.no_grad():
                torch._foreach_copy_(self.moving, self.masters)


def _micro_batches(case, batch, choice: gpu_cases.Torch, device: str):
    """A step's micro-batches by role, each with its number of learned tokens."""
    found = {}
    for role in case.rows:
        make: Callable[..., list[dict[str, Any]]] = (
            _packed if choice.packed else _padded
        )
        made = make(case, batch, role, choice.micro)
        counted = "real" if role == "retain" else "labels"
        total = sum(int((m[counted] > 0).sum()) for m in made)
        placed = [
            {k: v if isinstance(v, int) else v.to(device) for k, v in m.items()}
            for m in made
        ]
        found[role] = (placed, total)
    return found


def _padded(case, batch, role: str, micro: int) -> list[dict[str, Any]]:
    import torch

    texts = sorted(gpu_cases.texts(case, batch)[role], key=lambda text: len(text[0]))
    found = []
    for start in range(0, len(texts), micro):
        made = torch_loop.pad(texts[start : start + micro])
        positions = torch.arange(made["input_ids"].shape[1])[None]
        found.append(
            {
                "ids": made["input_ids"],
                "positions": positions,
                "labels": made["labels"],
                "real": made["attention_mask"],
            }
        )
    return found


def _packed(case, batch, role: str, micro: int) -> list[dict[str, Any]]:
    """Packed rows one after another in one row; padding is a text of its own."""
    import torch

    rows = gpu_cases.role_rows(case)
    part = batch.text.replace(weights_BT=batch.weights_BT).take(rows, role)
    found = []
    for start in range(0, len(part), micro):
        own = part.select(slice(start, start + micro))
        segments = own.segment_ids_BT
        begins = np.diff(segments, axis=1, prepend=-1) != 0
        starts = np.flatnonzero(begins.ravel())
        most = len(own) * (case.context // 16)
        cumulative = np.full(most + 1, segments.size, np.int32)
        cumulative[: len(starts)] = starts
        # What a position predicts stands at the next one.
        learned = np.pad(own.weights_BT[:, 1:] > 0, ((0, 0), (0, 1))).ravel()
        targets = np.pad(own.tokens_BT[:, 1:], ((0, 0), (0, 1))).ravel()
        positions = np.arange(segments.size) - np.repeat(
            starts, np.diff(np.append(starts, segments.size))
        )
        found.append(
            {
                "ids": own.tokens_BT.reshape(1, -1).astype(np.int64),
                "positions": positions[None],
                "cumulative": cumulative,
                "longest": case.context,
                "read": np.flatnonzero(learned),
                "labels": targets[learned].astype(np.int64),
                "real": (segments > 0).reshape(1, -1).astype(np.int64),
            }
        )
    return [
        {k: v if isinstance(v, int) else torch.from_numpy(v) for k, v in m.items()}
        for m in found
    ]


def serve(connection: Any, case: gpu_cases.Case, batches: list[Any], device: str):
    """Answers (choice, steps, whether they begin anew) with seconds, terms and peak
    memory in bytes, and None, which ends it, with the name of the device."""
    import jax
    import torch

    cuda = device == "cuda"
    jax.config.update("jax_platforms", "cpu")  # which makes the batches
    torch.set_num_threads(4 if cuda else 1)
    torch.set_float32_matmul_precision("high")
    loop = Loop(case, batches, device)
    while (message := connection.recv()) is not None:
        choice, steps, anew = message
        try:
            if anew:
                loop.begin()
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            found = [loop.step(choice) for _ in range(steps)]
            terms = [[float(term) for term in terms] for terms in found]
            if cuda:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            peak = torch.cuda.max_memory_allocated() if cuda else 0
            connection.send({"seconds": seconds, "terms": terms, "peak": peak})
        except Exception as error:  # noqa: BLE001 - the table says which setting failed
            what = "out of memory" if "out of memory" in str(error) else repr(error)
            connection.send({"failed": what[-300:]})
        if cuda:
            torch.cuda.empty_cache()
    connection.send(torch.cuda.get_device_name() if cuda else "cpu")
