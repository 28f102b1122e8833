# SPDX-License-Identifier: Apache-2.0
"""The three-term step as open-unlearning runs it: PyTorch, `transformers`, padding.

Written from the description of its trainers (GradDiff with KL, `AutoModelForCausalLM`,
a collator that pads to the longest text of a micro-batch), without what it wastes: one
forward pass of the model a role, tokenised once, labels of the answer alone. Every term
is a sum over its tokens divided by the step's number of them, so that micro-batches of
any size give the same gradient. `serve` is one process of results/cpu_speed.py.
"""

import copy
import dataclasses
import resource
import time
from typing import Any

import numpy as np

ROLES = ("unlearn", "update", "retain")
Step = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # tokens and learned, by role


@dataclasses.dataclass(frozen=True)
class TorchSettings:
    """What may make the loop faster; `cpu_speed` searches over it.

    Attributes:
      micro: texts of a role in a micro-batch.
      compiled: `torch.compile` of a role's forward pass and loss.
      mask: gives the attention mask, as open-unlearning does. Without it nothing
        changes: texts are padded on the right and attention is causal.
      bucketed: texts of a step are sorted by length before they are cut into
        micro-batches (open-unlearning does not).
      duplicate: forwards the retain texts once more, as open-unlearning's KL does.
      threads: of PyTorch.
    """

    micro: int = 8
    compiled: bool = False
    mask: bool = True
    bucketed: bool = False
    duplicate: bool = False
    threads: int = 2


def pad(texts: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Texts as one batch, padded on the right to the longest.

    Returns:
      `input_ids` and `attention_mask` [b, t] int64, and `labels`: the token that each
      position predicts, -100 where none is learned.
    """
    import torch

    shape = (len(texts), max(len(tokens) for tokens, _ in texts))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, -100, np.int64)
    for i, (tokens, learned) in enumerate(texts):
        ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
        labels[i, : len(tokens) - 1] = np.where(learned, tokens, -100)[1:]
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _cross_entropy(logits, labels, mask, reference):
    """Sum of -log p over the labels, nats."""
    import torch

    del mask, reference
    flat = logits.float().view(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels.view(-1), reduction="sum")


def _divergence(logits, labels, mask, reference):
    """Sum over real positions of KL(reference || model), nats."""
    import torch

    del labels
    vocabulary = logits.shape[-1]
    model, frozen = (
        torch.nn.functional.log_softmax(x.float().view(-1, vocabulary), dim=-1)
        for x in (logits, reference)
    )
    each = torch.nn.functional.kl_div(model, frozen, reduction="none", log_target=True)
    return (each.sum(-1) * mask.view(-1)).sum()


class Loop:
    """The model, its frozen copy, the optimizer, and one step."""

    def __init__(self, folder: str, settings: TorchSettings, learning_rate: float):
        """Loads the model from a directory in Hugging Face format."""
        import torch
        import transformers

        torch.set_num_threads(settings.threads)
        self.settings = settings
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).train()
        self.model.config.use_cache = False
        self.reference = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
        )
        self._forward, self._frozen = self._make(self.model), self._make(self.reference)
        self._losses = {
            role: self._compiled(_divergence if role == "retain" else _cross_entropy)
            for role in ROLES
        }

    def _compiled(self, function):
        import torch

        if not self.settings.compiled:
            return function
        return torch.compile(function, dynamic=True)

    def _make(self, model):
        def logits(input_ids, attention_mask):
            mask = attention_mask if self.settings.mask else None
            return model(input_ids=input_ids, attention_mask=mask).logits

        return self._compiled(logits)

    def _micro_batches(self, texts):
        if self.settings.bucketed:
            texts = sorted(texts, key=lambda text: len(text[0]))
        size = self.settings.micro
        return [pad(texts[i : i + size]) for i in range(0, len(texts), size)]

    def step(self, step: Step) -> dict[str, float]:
        """One optimizer step; the terms of its loss, and its positions with padding."""
        import torch

        batches = {role: self._micro_batches(step[role]) for role in ROLES}
        metrics = {"positions": 0.0} | dict.fromkeys(ROLES, 0.0)
        for role in ROLES:
            counted = "attention_mask" if role == "retain" else "labels"
            total = sum(int((b[counted] > 0).sum()) for b in batches[role])
            sign = -1.0 if role == "unlearn" else 1.0
            for batch in batches[role]:
                inputs = (batch["input_ids"], batch["attention_mask"])
                reference = None
                if role == "retain":
                    if self.settings.duplicate:
                        self._forward(*inputs)
                    with torch.no_grad():
                        reference = self._frozen(*inputs)
                logits = self._forward(*inputs)
                loss = self._losses[role](
                    logits, batch["labels"], batch["attention_mask"], reference
                )
                (sign * loss / total).backward()
                metrics[role] += float(loss.detach()) / total
                metrics["positions"] += batch["input_ids"].numel()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return metrics


def serve(
    connection: Any,
    folder: str,
    steps: list[Step],
    settings: TorchSettings,
    learning_rate: float,
) -> None:
    """Answers each number of steps received with (seconds, metrics of each), and 0, which
    ends it, with the most bytes of memory that it held.

    The steps are gone through in turn, over and over.
    """
    loop, done = Loop(folder, settings, learning_rate), 0
    while count := connection.recv():
        began, found = time.perf_counter(), []
        for _ in range(count):
            found.append(loop.step(steps[done % len(steps)]))
            done += 1
        connection.send((time.perf_counter() - began, found))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
