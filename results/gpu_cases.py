# SPDX-License-Identifier: Apache-2.0
"""The models, texts and settings that results/gpu_speed.py times, and their FLOPs."""

import dataclasses
from typing import Any

import numpy as np

# Deciles of the tokens of TOFU's prompts and answers (forget10, a byte-pair vocabulary
# of 4096 that is trained on it): the texts to forget, refusals, retained texts.
LENGTHS = {
    "unlearn": (
        (14, 17, 18, 19, 20, 22, 23, 25, 27, 31, 70),
        (8, 22, 29, 33, 37, 40, 44, 50, 55, 65, 108),
    ),
    "update": (
        (14, 17, 18, 19, 20, 22, 23, 25, 27, 31, 70),
        (8, 10, 12, 12, 13, 13, 13, 15, 15, 18, 19),
    ),
    "retain": (
        (11, 15, 17, 17, 18, 19, 21, 22, 24, 28, 72),
        (6, 19, 25, 30, 34, 38, 42, 46, 51, 59, 137),
    ),
}
STEPS = 2  # different ones, gone through in turn


@dataclasses.dataclass(frozen=True)
class Ours:
    """How our step is run: see configs/surgery.py for the fields."""

    remat: str
    accumulate: int
    reference: str = "cached"


@dataclasses.dataclass(frozen=True)
class Torch:
    """How PyTorch's step is run (see gpu_torch.py).

    Attributes:
      packed: rows of packed texts; else texts of like length, padded on the right.
      micro: rows or texts in a micro-batch, of one role.
      compiled: `torch.compile` of the layers and the losses.
    """

    packed: bool
    micro: int
    compiled: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """One model with the settings that are searched.

    Attributes:
      name: of the model, in `jax_surgery.models.published` unless it is "tiny".
      rank: of low-rank deltas, on a frozen bfloat16 base; 0 trains all parameters,
        which are float32.
      rows: packed rows of each role in a step.
      context: tokens of a row.
      ours: settings that are tried, in the order of the memory that they need.
      torch: settings that are tried, by program; the fastest of each races.
    """

    name: str
    rank: int
    rows: dict[str, int]
    context: int
    ours: tuple[Ours, ...]
    torch: dict[str, tuple[Torch, ...]]

    @property
    def config(self) -> Any:
        """The architecture."""
        from jax_surgery.models.config import ModelConfig
        from jax_surgery.models.published import sizes

        if self.name == "tiny":
            return ModelConfig(512, 64, 160, 2, 4, 2, 16, tie_embeddings=True)
        return sizes(self.name)

    def settings(self, ours: Ours) -> Any:
        """The settings of our run: configs/paper_formula.py with a bounded direction of KL."""
        import tables

        fields = {
            "compute.dtype": "bfloat16",
            "compute.remat": ours.remat,
            "accumulate": ours.accumulate,
            "reference": ours.reference,
            "lora.rank": self.rank,
            "objective.kl_direction": "reference_to_model",
            "optimizer.learning_rate": LEARNING_RATE,
            "optimizer.schedule": "constant",
            "data.context": self.context,
        }
        rows = {f"data.rows_{role}": count for role, count in self.rows.items()}
        return tables.settings_of("paper_formula", **fields, **rows)


LEARNING_RATE = 1e-5
PADDED, PACKED = "PyTorch, padded", "PyTorch, packed"
ROWS = {"unlearn": 32, "update": 32, "retain": 32}
ONE_B = Case(
    "llama3.2_1b",
    0,
    ROWS,
    256,
    (Ours("dots", 2), Ours("dots", 1)),
    {
        PADDED: (Torch(False, 32), Torch(False, 64)),
        PACKED: (Torch(True, 16, True), Torch(True, 32, True)),
    },
)
SEVEN_B = Case(
    "llama2_7b",
    16,
    ROWS,
    256,
    (Ours("dots", 4), Ours("dots", 2)),
    {
        PADDED: (Torch(False, 32),),
        PACKED: (Torch(True, 16, True), Torch(True, 32, True)),
    },
)
TINY_ROWS = {"unlearn": 2, "update": 2, "retain": 2}
TINY = tuple(
    Case(
        "tiny",
        rank,
        TINY_ROWS,
        192,
        (Ours("dots", 1),),
        {PADDED: (Torch(False, 4),), PACKED: (Torch(True, 1),)},
    )
    for rank in (0, 4)
)
CASES = {"1b": ONE_B, "7b": SEVEN_B}


def documents(role: str, count: int, words: int, seed: int) -> list[Any]:
    """Texts of a role as long as TOFU's, of random tokens; answers are learned."""
    from jax_surgery.data.tokens import Document

    random = np.random.default_rng((seed, list(LENGTHS).index(role)))
    deciles = np.linspace(0, 1, 11)
    prompts, answers = (
        np.interp(random.random(count), deciles, of).astype(int) for of in LENGTHS[role]
    )
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = random.integers(1, words, prompt + answer, dtype=np.int32)
        found.append(Document(tokens, np.arange(prompt + answer) >= prompt, role))
    return found


def batches(case: Case, seed: int = 0) -> list[Any]:
    """The packed rows of each step, as a run packs them."""
    from jax_surgery.data.packing import Packer
    from jax_surgery.data.stream import BatchStream

    words = case.config.vocab_size
    packers = {}
    for role, rows in case.rows.items():
        # About 2.5 times as many as the steps read: no text is read twice.
        count = 1 + rows * STEPS * case.context // 20
        packers[role] = Packer(
            documents(role, count, words, seed), case.context, "tokens"
        )
    stream = BatchStream(packers, case.rows, seed)
    return [next(stream) for _ in range(STEPS)]


def role_rows(case: Case) -> Any:
    """How the rows of a batch lie."""
    from jax_surgery.data.role_rows import RoleRows

    return RoleRows(**case.rows)


def texts(case: Case, batch: Any) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """(tokens, whether each is learned) of every text of a step, by role."""
    found = {}
    for role in case.rows:
        part = batch.text.replace(weights_BT=batch.weights_BT).take(
            role_rows(case), role
        )
        found[role] = [
            (part.tokens_BT[row][own], part.weights_BT[row][own] > 0)
            for row in range(len(part))
            for number in range(1, part.segment_ids_BT[row].max() + 1)
            for own in [part.segment_ids_BT[row] == number]
        ]
    return found


def useful_tokens(batch: Any) -> int:
    """Tokens of a step that are no padding."""
    return int((batch.segment_ids_BT > 0).sum())


def useful_flops(case: Case, batch: Any) -> tuple[float, float]:
    """FLOPs that a step's texts need: `flops.training_flops` of the tokens that are no
    padding, each of which attends to its own text up to itself. The reference and what
    is computed twice do not count.

    Returns:
      with the output head on every token, and on those alone whose logits a term
      reads: learned tokens, and all that are retained.
    """
    from jax_surgery.models import flops

    config, real = case.config, batch.segment_ids_BT > 0
    settings = case.settings(case.ours[0])
    tokens = useful_tokens(batch)
    span = float((batch.positions_BT + 1)[real].mean())
    counted = flops.training_flops(
        config, tokens, span, settings.trainable(config), case.rank
    )
    retained = role_rows(case).holds("retain", len(batch))
    read = (batch.weights_BT[~retained] > 0).sum() + real[retained].sum()
    passes = 2 if case.rank else 3  # of products with a frozen or a moving head
    head = 2.0 * config.hidden_size * config.vocab_size
    return counted, counted - passes * head * (tokens - int(read))
