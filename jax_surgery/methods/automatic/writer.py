# SPDX-License-Identifier: Apache-2.0
"""A model that writes: text after prompts, seeded by what it is written for."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_surgery.models import generate
from jax_surgery.models.model import Model
from jax_surgery.models.sampling import Sampling

ROWS = 64  # texts that are written at once


class Written(NamedTuple):
    """What was written, and whether the model ended it by itself."""

    text: str
    ended: bool


class Writer:
    """Continues prompts with a model."""

    def __init__(
        self, model: Model, seed: int, watch: Callable[[int], None] = lambda count: None
    ):
        """Writes with a model.

        Args:
          seed: of all draws.
          watch: is told how many texts have been written since it was told last.
        """
        self._model, self._seed, self._watch = model, seed, watch

    @property
    def model(self) -> Model:
        """That writes."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._model.tokenizer

    def plain(self, text: str) -> list[int]:
        """The tokens of a text from its start, with the bos token where the tokenizer
        puts one before every text."""
        tokenizer = self.tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        first = tokenizer("A")["input_ids"][:1]
        puts_bos = bool(first) and first[0] == tokenizer.bos_token_id
        return [*first, *ids] if puts_bos else list(ids)

    def learned(self, text: str) -> list[int]:
        """The tokens of a text as a plain text that is learned begins (see `prompts`)."""
        tokenizer = self.tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [*bos, *ids]

    def greedy(self, prompts: Sequence[list[int]], tokens: int) -> list[Written]:
        """The most likely text after each prompt, of at most so many tokens."""
        model = self._model
        found = generate.greedy_generate(
            *(model.params, model.config, list(prompts), tokens),
            eos_id=model.stops,
            compute=model.compute,
            batch_rows=ROWS,
            watch=self._watch,
        )
        return self._written(found, tokens)

    def sampled(
        self,
        prompts: Sequence[list[int]],
        tokens: int,
        stage: str,
        *,
        samples: int = 1,
        temperature: float = 1.0,
        top_p: float = 0.95,
    ) -> list[Written]:
        """Text that is drawn after each prompt; samples of a prompt are side by side.

        Args:
          tokens: of a text, at most.
          stage: what it is written for; other stages draw other numbers.
          samples: of each prompt.
          temperature, top_p: see `Sampling`.
        """
        model = self._model
        chosen = Sampling(temperature, top_p, self._drawn(stage))
        found = generate.sampled_generate(
            *(model.params, model.config, list(prompts), tokens, chosen),
            samples=samples,
            eos_id=model.stops,
            compute=model.compute,
            batch_rows=ROWS,
            watch=self._watch,
        )
        return self._written(found, tokens)

    def rng(self, stage: str) -> np.random.Generator:
        """Random numbers of a stage."""
        return np.random.default_rng([self._seed, zlib.crc32(stage.encode())])

    def _drawn(self, stage: str) -> int:
        return int(self.rng(f"draws of {stage}").integers(2**32))

    def _written(self, found: list[list[int]], tokens: int) -> list[Written]:
        decode = self.tokenizer.batch_decode
        texts = decode(found, skip_special_tokens=True) if found else []
        return [
            Written(text, len(ids) < tokens)
            for text, ids in zip(texts, found, strict=True)
        ]
