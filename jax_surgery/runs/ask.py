# SPDX-License-Identifier: Apache-2.0
"""A model that is asked by a person: a question in, its most likely answer out."""

import jax

from jax_surgery.benchmarks import model_source
from jax_surgery.data import prompts, tokens
from jax_surgery.models.compute import DEFAULT_COMPUTE, Compute
from jax_surgery.models.generate import greedy_generate
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train import devices


class Ask:
    """A model, loaded to be asked."""

    def __init__(self, source: str, compute: Compute = DEFAULT_COMPUTE):
        """Loads a model on all devices.

        Args:
          source: a finished run's directory, one in Hugging Face format, a hub name, or
            a benchmark's name.
          compute: how it is run.

        Raises:
          FileNotFoundError, ValueError: see `devices.load`.
        """
        self._mesh = meshes.make_mesh(MeshShape())
        with jax.set_mesh(self._mesh):
            self._model = devices.load(model_source(source), compute)

    def __call__(self, question: str, most: int = 48) -> str:
        """The most likely answer: in the model's chat template, where it has one of its
        own, else the text that follows.

        Args:
          most: tokens of the answer, at most.
        """
        model = self._model
        as_chat = prompts.asks_as_chat(model.tokenizer, "auto")
        record = prompts.ask(question, " .", "question", model.tokenizer, as_chat)
        [document] = tokens.encode_whole([record], model.tokenizer)
        with jax.set_mesh(self._mesh):
            [ids] = greedy_generate(
                model.params,
                model.config,
                [document.prompt.tolist()],
                most,
                eos_id=model.stops,
                compute=model.compute,
            )
        return model.tokenizer.decode(ids, skip_special_tokens=True).strip()
