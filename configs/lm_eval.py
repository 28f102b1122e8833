# SPDX-License-Identifier: Apache-2.0
"""Asks a model the tasks of lm-evaluation-harness.

The fields are named as the harness's own flags, and the table that it prints is its own.
The model stays as it is in memory: it is neither exported nor run by PyTorch.

Hardware: what configs/evaluate.py needs. The extra `lm-eval` must be installed, and a task
that is not a file of yours is loaded from the hub.

Command to run:
python -m jax_surgery.main --config=configs/lm_eval.py --config.model=DIR \
    --config.tasks=arc_easy,hellaswag --config.limit=100
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config of an evaluation by the harness."""
    config = ConfigDict()
    config.run = "lm_eval"
    config.model = "embedded"  # "embedded", a directory, a workdir, or a hub name
    # Tasks, groups, tags or task files (.yaml), comma-separated.
    config.tasks = "arc_easy"
    config.include_path = ""  # a folder of further task files; "" is none
    config.num_fewshot = -1  # examples before each question; -1 is what the task says
    config.limit = 0.0  # documents of each task, or a share below 1; 0 asks all
    config.apply_chat_template = False  # prompts in the model's chat template
    config.system_instruction = ""  # message before them; "" is none
    config.gen_kwargs = ""  # e.g. "max_gen_toks=64"; "" is what the task says
    config.log_samples = False  # every answer, in samples/TASK.jsonl
    config.max_length = 0  # tokens read at most; 0 is what the model's config says
    config.seed = 1234  # of examples, and of tokens that are drawn

    config.mesh = ConfigDict()
    config.mesh.data = 0  # copies of the model; 0 is one for each TPU slice
    config.mesh.fsdp = 0  # devices that share its weights; 0 is all that are left
    config.mesh.tp = 1  # devices that share each layer's products

    config.compute = ConfigDict()
    config.compute.dtype = "float32"  # or bfloat16
    config.compute.attention = "auto"  # or xla, cudnn (GPU), splash (TPU)
    return config
