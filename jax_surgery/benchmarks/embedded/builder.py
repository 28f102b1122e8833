# SPDX-License-Identifier: Apache-2.0
"""The embedded benchmark as a TFDS builder (array_record; no TensorFlow needed).

    builder = EmbeddedWorld(data_dir=DIR, config="texts", file_format="array_record")
    builder.download_and_prepare()
    for record in builder.as_data_source(split="obsolete"): ...

The config "texts" has a split for each set, "questions" one for each group.
"""

from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jax_surgery.benchmarks.embedded import corpus
from jax_surgery.data.questions import FIELDS


class EmbeddedWorld(tfds.core.GeneratorBasedBuilder):
    """A seeded world of fictional people, made like LLM Surgery's benchmark."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="texts", description="Texts of each set."),
        tfds.core.BuilderConfig(name="questions", description="Multiple choice."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        if self.builder_config.name == "texts":
            features: dict[Any, Any] = {"text": text}
        else:
            features = dict.fromkeys((*FIELDS, "about"), text)
            features |= {"options": tfds.features.Sequence(text), "answer": np.int32}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {name: self._generate_examples(name) for name in corpus.SETS}

    def _generate_examples(self, name: str):
        if self.builder_config.name == "texts":
            yield from enumerate(corpus.load(name))
        else:
            for question in corpus.questions():
                if question.group == name:
                    yield question.id, question.record()
