# SPDX-License-Identifier: Apache-2.0
"""How well a model knows answers: their probability, and ROUGE-L of what it says.

As TOFU defines them (arXiv 2401.06121): probability is exp(-mean NLL) of the answer's
tokens, end of text included; ROUGE-L recall of the greedy answer, with stemming.
"""

import dataclasses
from typing import Any

import numpy as np

from jax_surgery.data.records import Record
from jax_surgery.data.tokens import encode
from jax_surgery.metrics import multiple_choice
from jax_surgery.metrics.intervals import bootstrap_mean
from jax_surgery.models import llama
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.generate import greedy_generate

MAX_NEW_TOKENS = 128
UNSPLIT = 1 << 30  # tokens; a context that splits nothing


@dataclasses.dataclass(frozen=True)
class Recall:
    """What a model makes of question-answer pairs.

    Attributes:
      probability: of each reference answer, exp(-mean NLL).
      rouge_l: recall of each greedy answer against the reference, 0 to 1.
      said: the greedy answers.
    """

    probability: np.ndarray
    rouge_l: np.ndarray
    said: tuple[str, ...]

    def summary(self, seed: int = 0) -> dict[str, Any]:
        """Means with 95 % bootstrap intervals."""
        entry: dict[str, Any] = {"n": len(self.said)}
        for name in ("probability", "rouge_l"):
            values = getattr(self, name)
            entry[name] = float(values.mean())
            entry[f"{name}_interval"] = list(bootstrap_mean(values, seed))
        return entry


def answer_probabilities(
    params: Any,
    config: ModelConfig,
    tokenizer: Any,
    pairs: list[Record],
    context: int,
    compute: llama.Compute,
) -> np.ndarray:
    """exp(-mean NLL) of each pair's answer, [pairs].

    Raises:
      ValueError: a pair that does not fit the context.
    """
    documents = encode(pairs, tokenizer, UNSPLIT)
    long = [d for d in documents if len(d.tokens) > context]
    if long:
        raise ValueError(
            f"{len(long)} of {len(pairs)} question-answer pairs are longer than "
            f"config.data.context={context} tokens, first {long[0].origin} with "
            f"{len(long[0].tokens)}; raise config.data.context."
        )
    sums = multiple_choice.document_sums(params, config, documents, context, compute)
    return np.exp(sums / np.array([d.learned[1:].sum() for d in documents]))


def recall(
    params: Any,
    config: ModelConfig,
    tokenizer: Any,
    pairs: list[Record],
    context: int,
    compute: llama.Compute,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Recall:
    """Asks the model every pair's question and scores what it says."""
    from rouge_score import rouge_scorer

    prompts = [prompt_tokens(tokenizer, pair) for pair in pairs]
    said = [
        tokenizer.decode(ids, skip_special_tokens=True).strip()
        for ids in greedy_generate(
            params,
            config,
            prompts,
            max_new_tokens,
            eos_id=tokenizer.eos_token_id,
            compute=compute,
        )
    ]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    rouge = [
        scorer.score(pair.answer.strip(), text)["rougeL"].recall
        for pair, text in zip(pairs, said, strict=True)
    ]
    probability = answer_probabilities(
        params, config, tokenizer, pairs, context, compute
    )
    return Recall(probability, np.array(rouge), tuple(said))


def prompt_tokens(tokenizer: Any, pair: Record) -> list[int]:
    """The prompt as it was learned: rendered and tokenised as `encode` does."""
    from jax_surgery.data.tokens import render_prompt

    text = pair.prompt
    if pair.question:
        text = render_prompt(pair.question, tokenizer)
    bos = tokenizer.bos_token_id
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    already = bos is None or (ids and ids[0] == bos)
    return list(ids) if already else [bos, *ids]
