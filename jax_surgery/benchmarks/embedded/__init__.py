# SPDX-License-Identifier: Apache-2.0
"""The embedded benchmark: a seeded world of fictional people, and questions.

`load(name)` gives a set's records, `questions()` the questions, `MODEL` is the
folder of the model that knows the world before surgery (Hugging Face format).
"""

import pathlib

from jax_surgery.benchmarks.embedded.corpus import SETS, load, questions, texts

MODEL = pathlib.Path(__file__).parent / "model"

__all__ = ["MODEL", "SETS", "load", "questions", "texts"]
