# SPDX-License-Identifier: Apache-2.0
"""Settings of every test: on CPU and offline; and a tiny model to share."""

import os
import pathlib

# Before jax and huggingface_hub are imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# LAPACK's threads wait for each other in busy loops, which is slow on shared cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
# Most tests run what they compile for milliseconds: XLA's optimisations cost more than
# that. Modules that compute for longer set OPTIMISED = True.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Tests compile the same small programs, in several processes: compile each once.
COMPILED = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# No JAX_COMPILATION_CACHE_MAX_SIZE: with it every program that is added looks at all that
# are there, and late tests took ten times as long.
MOST_COMPILED = 2**28  # bytes, that a run begins with

import collections
import dataclasses
import json
import shutil
from typing import Any

import hypothesis
import jax
import on_devices
import pytest
import storage_server

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.bpe import train_bpe
from jax_surgery.models import decoder
from jax_surgery.models.config import ModelConfig
from jax_surgery.parallel.mesh import MeshShape
from jax_surgery.train import devices

# JAX reads the flags as it starts; libtpu would read them later, and does not know all.
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{given} {on_devices.QUICK}".strip()
jax.devices()
os.environ["XLA_FLAGS"] = given
# How long a draw takes depends on what else the machine does.
hypothesis.settings.register_profile("any load", deadline=None)
hypothesis.settings.load_profile("any load")


def pytest_configure(config):
    """Deletes the compilation cache of earlier runs if it has grown too large."""
    if hasattr(config, "workerinput") or not COMPILED.is_dir():
        return
    if sum(file.stat().st_size for file in COMPILED.iterdir()) > MOST_COMPILED:
        shutil.rmtree(COMPILED)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Runs the tests of a file in one process, so that they share fixtures."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # by number: `pytest_collection_modifyitems`
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items):
    """Long files first, so that no process waits at the end while another has one."""
    tests = collections.Counter(item.path for item in items)

    def place(item):
        says = lambda name: getattr(item.module, name, False)
        return not says("TAKES_MINUTES"), not says("OPTIMISED"), -tests[item.path]

    items.sort(key=place)  # is stable: a file's tests keep their order


@pytest.fixture(scope="module", autouse=True)
def optimised(request):
    """XLA's optimisations for modules that ask for them."""
    field = "jax_disable_most_optimizations"
    before = jax.config.values[field]
    if getattr(request.module, "OPTIMISED", False):
        jax.config.update(field, False)
    yield
    jax.config.update(field, before)


@dataclasses.dataclass(frozen=True)
class TinyModel:
    """A random Llama, in memory and in `folder` (Hugging Face format)."""

    folder: str
    params: Any
    config: ModelConfig
    tokenizer: Any
    texts: list[str]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> TinyModel:
    folder = str(tmp_path_factory.mktemp("tiny_model"))
    texts = [f"the number {i} is {i * 7 % 13}" for i in range(12)]
    tokenizer = train_bpe(texts, 280)
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    params = jax.tree.map(lambda x: 3 * x, decoder.init_params(config, 1))
    hf_weights.save_model(params, config, folder)
    tokenizer.save_pretrained(folder)
    return TinyModel(folder, params, config, tokenizer, texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Where a module's runs write."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def mesh():
    """The mesh that a run sets: without it all of its programs are compiled again."""
    with devices.on_mesh(MeshShape()) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def own(folder) -> dict:
    """Fields of a removal on a user's tasks file, without curves and angles."""
    import subspace_run_cases as cases

    return {"tasks.source": cases.tasks_file(folder), **cases.NO_REPORT}


@pytest.fixture(scope="session")
def cloud():
    """A storage server that gcsfs and TensorStore of this process use; see `bucket`."""
    with storage_server.Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.variables.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(cloud):
    """An empty gs:// bucket, on a server without faults (`cloud.faults`)."""
    name = f"bucket-{len(cloud.storage.buckets)}"
    cloud.storage.buckets[name] = {}
    cloud.faults = storage_server.Faults()
    yield f"gs://{name}"
    cloud.faults = storage_server.Faults()


@pytest.fixture
def write_texts(tmp_path):
    """Writes texts to a JSONL file and returns its path."""

    def write(name: str, texts: list[str]) -> str:
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
        return str(file)

    return write
