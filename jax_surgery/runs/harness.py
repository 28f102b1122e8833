# SPDX-License-Identifier: Apache-2.0
"""Asks a model the tasks of lm-evaluation-harness (extra `lm-eval`).

The run: load the tasks -> load the model on the mesh -> ask it all requests ->
results.json as the harness writes it, its table, and its samples where they are wanted.
"""

import dataclasses
import importlib.util
import json
import os
from typing import Any, ClassVar

from etils import epath

from jax_surgery.benchmarks import model_source
from jax_surgery.checkpoints import hf_weights
from jax_surgery.config import at_least, check_seed, names
from jax_surgery.data import template_marks
from jax_surgery.models.compute import Compute
from jax_surgery.models.model import Model
from jax_surgery.parallel import distributed, progress
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.storage import files
from jax_surgery.train import devices

OF_TASK = -1  # of num_fewshot: what each task says


@dataclasses.dataclass(frozen=True)
class HarnessSettings:
    """Asking a model the harness's tasks (`run = "lm_eval"`).

    Fields that the harness's command line has are named as there.

    Attributes:
      model: a directory or hub name, a finished run's workdir, or a benchmark's name.
      tasks: names of tasks, groups or tags, or paths of task files (.yaml), separated by
        commas.
      include_path: a folder of further task files; "" is none.
      num_fewshot: examples before each question; -1 is what each task says.
      limit: documents of each task, or their share where it is below 1; 0 asks all.
      apply_chat_template: whether prompts are put into the model's chat template.
      system_instruction: message before them; "" is none.
      gen_kwargs: options of generation, KEY=VALUE separated by commas.
      log_samples: whether every answer is written, to samples/TASK.jsonl.
      max_length: tokens that the model reads at most; 0 is what its config says.
      seed: of examples before questions, and of tokens that are drawn.
    """

    run: str
    model: str
    tasks: str
    include_path: str
    num_fewshot: int
    limit: float
    apply_chat_template: bool
    system_instruction: str
    gen_kwargs: str
    log_samples: bool
    max_length: int
    seed: int
    mesh: MeshShape
    compute: Compute

    # There is no backward pass.
    FIXED: ClassVar = {"compute": {"remat": "none", "unroll": 0}}

    def __post_init__(self):
        if not names(self.tasks):
            raise ValueError(
                "config.tasks is empty; name tasks of lm-evaluation-harness, e.g. "
                "--config.tasks=arc_easy,hellaswag, or files of your own."
            )
        at_least(OF_TASK, self, "config", "num_fewshot")
        at_least(0, self, "config", "limit", "max_length")
        check_seed(self.seed)


def check_installed() -> None:
    """Raises ValueError where the harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            "config.run='lm_eval' asks tasks of lm-evaluation-harness, which is not "
            "installed; install the extra: pip install 'jax-surgery[lm-eval]', or in a "
            "checkout pip install -e '.[lm-eval]'."
        )


def load_tasks(settings: HarnessSettings) -> tuple[list[Any], Any]:
    """The tasks that a config names, as the harness takes them, and its task manager.

    Raises:
      ValueError: there is no such task, or the harness cannot read one.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    chosen = EvaluatorConfig(
        tasks=names(settings.tasks), include_path=settings.include_path or None
    )
    try:
        manager = chosen.process_tasks()
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise ValueError(
            f"config.tasks={settings.tasks!r}: {said}. `lm-eval ls tasks` lists the "
            "harness's own; a file of yours ends in .yaml, or lies in "
            "config.include_path."
        ) from error
    return list(chosen.tasks), manager


def evaluate(
    model: Model, settings: HarnessSettings, tasks: list[Any], manager: Any
) -> dict[str, Any]:
    """What the harness says of a model in memory, on the mesh that is set.

    Args:
      tasks, manager: see `load_tasks`.
    """
    import lm_eval

    from jax_surgery.metrics.harness import Harness

    few = settings.num_fewshot
    results = lm_eval.simple_evaluate(
        model=Harness(model, settings.max_length, settings.seed),
        tasks=tasks,
        task_manager=manager,
        num_fewshot=None if few == OF_TASK else few,
        limit=settings.limit or None,
        apply_chat_template=settings.apply_chat_template,
        system_instruction=settings.system_instruction or None,
        gen_kwargs=settings.gen_kwargs or None,
        log_samples=settings.log_samples,
        fewshot_random_seed=settings.seed,
        numpy_random_seed=settings.seed,
        torch_random_seed=settings.seed,
        random_seed=settings.seed,
    )
    assert results is not None, "each process is the first to the harness"
    return results


def run(settings: HarnessSettings, directory: str) -> dict[str, Any]:
    """Does the whole run in `directory`; returns what results.json holds.

    Returns:
      what the harness's own `--output_path` has ("results", "groups", "n-shot", "configs",
      "versions", ...), and "settings".

    Raises:
      FileNotFoundError, ValueError: the harness is not installed, there is no such task or
        model, or no chat template where one is asked for.
    """
    check_installed()
    # The harness forks no processes here, and tokenizers warn of it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with progress.phase("loading the tasks"):
        tasks, manager = load_tasks(settings)
    with devices.on_mesh(settings.mesh):
        source = model_source(settings.model)
        tokenizer = hf_weights.load_tokenizer(source)
        if settings.apply_chat_template and not template_marks.has_template(tokenizer):
            raise ValueError(
                f"config.apply_chat_template=True: the tokenizer of {settings.model!r} "
                "has no chat template; leave it False."
            )
        with progress.phase("loading the model"):
            model = devices.load(
                source, settings.compute, tokenizer, settings.max_length
            )
        with progress.phase("asking the model"):
            results = evaluate(model, settings, tasks, manager)
    samples = results.pop("samples", {})
    results["settings"] = dataclasses.asdict(settings)
    if distributed.is_lead():
        _write(epath.Path(directory), results, samples)
    return results


def _write(
    folder: epath.Path, results: dict[str, Any], samples: dict[str, list[Any]]
) -> None:
    """Writes and prints what the harness's command line does."""
    from lm_eval.utils import handle_non_serializable, make_table

    def text(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, indent=indent, default=handle_non_serializable)

    files.write_text(folder / "results.json", text(results, 2) + "\n")
    for task, rows in samples.items():
        lines = "".join(text(row) + "\n" for row in rows)
        files.write_text(folder / "samples" / f"{task}.jsonl", lines)
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))
