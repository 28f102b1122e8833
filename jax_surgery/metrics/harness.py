# SPDX-License-Identifier: Apache-2.0
"""A model in memory as lm-evaluation-harness asks it (extra `lm-eval`).

    import lm_eval
    from jax_surgery.metrics.harness import Harness

    results = lm_eval.simple_evaluate(model=Harness(model), tasks=["arc_easy"])

Prompts become tokens as the harness's own Hugging Face backend makes them, so that the
scores are its scores. The model is asked on the mesh that is set: every process of a run on
many hosts gets all requests, and all results.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from jax_surgery.data import template_marks
from jax_surgery.metrics import requests as asked
from jax_surgery.models.model import Model
from jax_surgery.models.sampling import Sampling

NEW_TOKENS = 256  # of a reply, where a task does not say
# What a task may say of generation; anything else is an error, not left out.
KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}


class Harness(TemplateLM):
    """A model for the harness."""

    def __init__(self, model: Model, max_length: int = 0, seed: int = 0):
        """Wraps a model.

        Args:
          model: on the mesh that is set.
          max_length: tokens that it reads at most; 0 is what its config says.
          seed: of tokens that are drawn, where a task asks for that.
        """
        super().__init__()
        self.model = model
        self.tokenizer = model.tokenizer
        self.max_length = max_length or model.config.max_positions
        self._seed = seed

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without a context."""
        bos = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """What the harness calls its caches by."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What results say of the model."""
        return {"pretrained": self.model.source, "dtype": self.model.compute.dtype}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """A text as tokens, with those that the tokenizer adds by itself; none where the
        text writes its bos."""
        del kwargs
        if add_special_tokens is None:
            written = self.tokenizer.decode(self.prefix_token_id)
            add_special_tokens = not has_bos_prefix(string, written)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages in the model's chat template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **template_marks.CONSTANTS,
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        del kwargs
        pairs = [(given, following) for _, given, following in requests]
        found = asked.score_continuations(self.model, pairs, self.max_length)
        for (texts, _, _), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts, nats, in windows of the model's context."""
        del disable_tqdm
        pairs, owner = [], []
        for number, request in enumerate(requests):
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs += map(utils.make_disjoint_window, windows)
            owner += [number] * (len(pairs) - len(owner))
        found = [0.0] * len(requests)
        scores = asked.score_continuations(self.model, pairs, self.max_length)
        for number, (score, _) in zip(owner, scores, strict=True):
            found[number] += score
        for request, total in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def generate_until(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[str]:
        """Replies, cut before the first of the strings that end them."""
        del disable_tqdm
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(request.args[1]), []).append(number)
        found = [""] * len(requests)
        for numbers in alike.values():
            said = self._replies(
                [requests[i].args[0] for i in numbers], requests[numbers[0]].args[1]
            )
            for number, text in zip(numbers, said, strict=True):
                found[number] = text
                args = requests[number].args
                self.cache_hook.add_partial("generate_until", args, text)
        return found

    def _replies(self, contexts: list[str], options: dict[str, Any]) -> list[str]:
        """Replies that are asked for with the same options."""
        how = dict(normalize_gen_kwargs(options, NEW_TOKENS))
        if unknown := sorted(set(how) - KNOWN):
            raise ValueError(
                f"a task asks for generation with {unknown[0]}={how[unknown[0]]!r}; of "
                f"{', '.join(sorted(KNOWN))} alone is known here how. Set the others to "
                "nothing in the task's generation_kwargs."
            )
        new_tokens = int(how["max_gen_toks"])
        if new_tokens >= self.max_length:
            raise ValueError(
                f"a task asks for {new_tokens} new tokens, and config.max_length="
                f"{self.max_length} leaves no place for its prompt; use a longer one, or "
                f"--config.gen_kwargs=max_gen_toks={self.max_length // 2}."
            )
        eos = self.tokenizer.decode(self.eot_token_id)
        stops = handle_stop_sequences(how.get("until"), eos=eos)
        most = self.max_length - new_tokens
        prompts = [self.tok_encode(context)[-most:] for context in contexts]
        drawn = None
        if how["do_sample"]:
            shape = float(how["temperature"]), float(how.get("top_p", 1.0))
            drawn = Sampling(*shape, self._seed)
        ended = functools.partial(_holds, stops, self.tokenizer.decode)
        said = asked.write_until(self.model, prompts, new_tokens, ended, drawn)
        return [
            postprocess_generated_text(
                self.tokenizer.decode(ids, skip_special_tokens=True), stops, None
            )
            for ids in said
        ]


def _holds(
    stops: list[str], decode: Callable[[list[int]], str], ids: list[int]
) -> bool:
    """Whether a reply holds one of the strings that end it."""
    text = decode(ids)
    return any(stop in text for stop in stops if stop)
