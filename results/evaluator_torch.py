# SPDX-License-Identifier: Apache-2.0
"""TOFU's scores as open-unlearning's evaluator measures them: PyTorch, `transformers`.

Written from the description of its metrics: each metric is a loop of its own over its
data, in batches of 32 texts as they come, padded to the longest; the model is given the labels
(and computes a loss that nobody reads); logits of all positions, and their log-softmax
where token probabilities are wanted; a pass for each answer to a question; generation
with `generate`, padded on the left. Two things are left out: texts are tokenised once,
beforehand, and extraction strength is 0 and not 1/n where nothing matches. `serve` is
one process of results/evaluator_speed.py.
"""

import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

BATCH = 32  # texts of a forward pass
IGNORED = -100  # label of tokens that are not learned
SHARE, LEAST_VARIANCE = 0.4, 1e-6  # of min-k and min-k++
PARTS = ("scores", "replies")
Text = tuple[np.ndarray, np.ndarray]  # tokens, and which are learned
Columns = dict[str, np.ndarray]


def clocks() -> np.ndarray:
    """Seconds that have passed, and that processors have worked for this process."""
    return np.array([time.perf_counter(), time.process_time()])


class Evaluator:
    """A model in PyTorch, and the loops of the metrics."""

    def __init__(self, folder: str, new_tokens: int):
        """Loads a directory in Hugging Face format."""
        import torch
        import transformers

        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self.new_tokens = new_tokens

    def _batches(self, texts: list[Text]) -> Iterator[dict[str, Any]]:
        import torch

        for start in range(0, len(texts), BATCH):
            own = texts[start : start + BATCH]
            shape = len(own), max(len(tokens) for tokens, _ in own)
            ids = np.full(shape, self.tokenizer.eos_token_id)
            mask, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED)
            for row, (tokens, learned) in enumerate(own):
                ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
                labels[row, : len(tokens)] = np.where(learned, tokens, IGNORED)
            arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            yield {name: torch.from_numpy(array) for name, array in arrays.items()}

    def losses(self, texts: list[Text]) -> np.ndarray:
        """Mean negative log-likelihood of each text's labels, nats (`probability`)."""
        import torch

        found = []
        for batch in self._batches(texts):
            with torch.no_grad():
                logits = self.model(**batch).logits
            labels = batch["labels"][..., 1:].contiguous()
            logits = logits[..., :-1, :].contiguous()
            each = torch.nn.functional.cross_entropy(
                logits.transpose(-1, -2), labels, ignore_index=IGNORED, reduction="none"
            ).sum(-1)
            counts = (batch["labels"] != IGNORED).sum(-1)
            found += (each / counts).tolist()
        return np.array(found)

    def _tokenwise(self, texts: list[Text], vocabulary: bool) -> Iterator[tuple]:
        """(log p of the labels, or of the whole vocabulary at each; labels), the last
        label, which ends the text, left out."""
        import torch

        for batch in self._batches(texts):
            with torch.no_grad():
                logits = self.model(**batch).logits
            logp = torch.nn.functional.log_softmax(logits, dim=-1)[:, :-1]
            if not vocabulary:
                following = batch["input_ids"][:, 1:, None]
                logp = torch.gather(logp, 2, following)[..., 0]
            for row, labels in enumerate(batch["labels"]):
                places = (labels != IGNORED).nonzero()[:, 0][:-1]
                first, last = int(places[0]), int(places[-1])
                yield logp[row, first - 1 : last], labels[places]

    def exact_memorisation(self, texts: list[Text]) -> np.ndarray:
        """Share of labels that are the most likely ones."""
        found = self._tokenwise(texts, vocabulary=True)
        return np.array(
            [float((p.argmax(-1) == own).float().mean()) for p, own in found]
        )

    def extraction_strength(self, texts: list[Text]) -> np.ndarray:
        """1 - k/n of the shortest start after which all labels are the most likely."""
        import torch

        found = []
        for logp, labels in self._tokenwise(texts, vocabulary=True):
            said, count = logp.argmax(-1), len(labels)
            start = count
            for k in range(count):
                if torch.equal(said[k:], labels[k:]):
                    start = k
                    break
            found.append(1 - start / count)
        return np.array(found)

    def zlib(self, texts: list[Text]) -> np.ndarray:
        """Loss over the bytes of the text that zlib has compressed."""
        losses, decode = self.losses(texts), self.tokenizer.decode
        said = [decode(t[own].tolist(), skip_special_tokens=True) for t, own in texts]
        return losses / [len(zlib.compress(text.encode())) for text in said]

    def min_k(self, texts: list[Text]) -> np.ndarray:
        """-mean of the lowest 40 % of log p."""
        found = self._tokenwise(texts, vocabulary=False)
        return np.array([_lowest(logp.numpy()) for logp, _ in found])

    def min_k_plus_plus(self, texts: list[Text]) -> np.ndarray:
        """The same of (log p - mean) / deviation, in two passes."""
        import torch

        found = []
        every = list(self._tokenwise(texts, vocabulary=True))
        for (logp, _), (own, _) in zip(
            every, self._tokenwise(texts, vocabulary=False), strict=True
        ):
            mean = (logp.exp() * logp).sum(-1)
            variance = (logp.exp() * logp.square()).sum(-1) - mean.square()
            deviation = torch.sqrt(torch.clamp(variance, min=LEAST_VARIANCE))
            found.append(_lowest(((own - mean) / deviation).numpy()))
        return np.array(found)

    def rouge_l(self, texts: list[Text]) -> np.ndarray:
        """ROUGE-L recall of greedy answers."""
        import torch
        from rouge_score import rouge_scorer

        scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
        decode, found = self.tokenizer.batch_decode, []
        for start in range(0, len(texts), BATCH):
            own = texts[start : start + BATCH]
            prompts = [tokens[: int(np.argmax(learned))] for tokens, learned in own]
            width = max(map(len, prompts))
            ids = np.full((len(own), width), self.tokenizer.eos_token_id)
            mask = np.zeros_like(ids)
            for row, prompt in enumerate(prompts):
                ids[row, width - len(prompt) :] = prompt
                mask[row, width - len(prompt) :] = 1
            said = self.model.generate(
                torch.from_numpy(ids),
                attention_mask=torch.from_numpy(mask),
                do_sample=False,
                max_new_tokens=self.new_tokens,
                pad_token_id=self.tokenizer.eos_token_id,
            )
            right = [tokens[learned].tolist() for tokens, learned in own]
            pairs = zip(
                decode(right, skip_special_tokens=True),
                decode(said[:, width:], skip_special_tokens=True),
                strict=True,
            )
            found += [
                scorer.score(one.strip(), other.strip())["rougeL"].recall
                for one, other in pairs
            ]
        return np.array(found)

    def run(self, texts: dict[str, list[list[Text]]]) -> tuple[dict, dict]:
        """All metrics of each split, one after another.

        Args:
          texts: by split, of each question its answers: the right one, a paraphrase of it
            where there is one, wrong ones.

        Returns:
          seconds of `PARTS` (see `clocks`), and by split the values of each metric.
        """
        seconds = {part: np.zeros(2) for part in PARTS}
        tables: dict[str, Columns] = {split: {} for split in texts}

        def timed(what: str, metric: Callable, given: list[Text]) -> np.ndarray:
            began = clocks()
            values = metric(given)
            seconds[what] += clocks() - began
            return values

        for split, rows in texts.items():
            answers = list(map(list, zip(*rows, strict=True)))
            right, table = answers[0], tables[split]
            if len(answers) > 1:
                losses = [timed("scores", self.losses, own) for own in answers]
                wrong = 5 if len(losses) == 7 else 3
                table["loss"] = losses[0]
                table["paraphrased_loss"] = losses[-wrong - 1]
                table["perturbed_loss"] = np.stack(losses[-wrong:], 1)
                table["rouge_l"] = timed("replies", self.rouge_l, right)
            if split == "forget":
                for name in ("exact_memorisation", "extraction_strength"):
                    table[name] = timed("scores", getattr(self, name), right)
            if split in ("forget", "holdout"):
                table["loss"] = timed("scores", self.losses, right)
                for name in ("zlib", "min_k", "min_k_plus_plus"):
                    table[name] = timed("scores", getattr(self, name), right)
        return seconds, tables


def _lowest(values: np.ndarray) -> float:
    count = max(1, int(SHARE * len(values)))
    return -float(np.mean(sorted(values)[:count]))


def serve(connection: Any, folder: str, texts: dict, new_tokens: int) -> None:
    """Answers each True received with what `Evaluator.run` gives, until False."""
    evaluator = Evaluator(folder, new_tokens)
    while connection.recv():
        connection.send(evaluator.run(texts))
    connection.send(None)
