# SPDX-License-Identifier: Apache-2.0
"""What docs/reliability.md promises of files: nothing in them is executed, names in them
lead nowhere, and what can restore the model before is not published unnoticed."""

import ast
import json
import pathlib
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import small_checkpoints
import subspace_run_cases as cases
from test_layers import MODULES

from jax_surgery.checkpoints import hf_weights, peft_adapter
from jax_surgery.data import bpe, records
from jax_surgery.data.forms import parse_record
from jax_surgery.data.tokens import encode
from jax_surgery.edits import edit_file
from jax_surgery.report import page, writer
from jax_surgery.train.checkpoint import Checkpoints

# Modules whose reading may run what they read, and calls that may.
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE |= {"torch", "runpy", "code"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
SWITCHES = {"trust_remote_code", "allow_pickle", "weights_only", "shell"}


def unsafe(source: str) -> list[str]:
    """What of a module might execute what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
            found += [n for n in names if n.partition(".")[0] in UNSAFE]
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in RUNS_TEXT:
                found.append(node.func.id)
            found += [
                f"{k.arg}={ast.unparse(k.value)}"
                for k in node.keywords
                if k.arg in SWITCHES and ast.unparse(k.value) not in ("False", "None")
            ]
    return found


def test_no_module_can_execute_what_it_reads():
    for name, path in MODULES.items():
        assert not unsafe(path.read_text()), name


def test_what_could_is_seen():
    code = "import pickle\nfrom torch import load\neval('1')\nf(trust_remote_code=True)"
    assert unsafe(code) == ["pickle", "torch", "eval", "trust_remote_code=True"]
    assert not unsafe("f(trust_remote_code=False)\nmodel.eval()\njson.loads('1')")


class Marks:
    """Pickled, it makes a file when somebody unpickles it."""

    def __init__(self, proof: pathlib.Path):
        self.proof = proof

    def __reduce__(self):
        return pathlib.Path.touch, (self.proof,)


def test_pickles_and_code_in_files_are_never_run(tmp_path):
    """As weights, as an adapter, as an edit, as a dataset; and in a chat template."""
    proof = tmp_path / "was-run"
    evil = pickle.dumps(Marks(proof))
    pickle.loads(evil)
    assert proof.exists()
    proof.unlink()
    model = tmp_path / "model"
    small_checkpoints.save(model)
    _, config = hf_weights.load_model(str(model))

    def refused(call):
        with pytest.raises((ValueError, FileNotFoundError)):
            call()
        assert not proof.exists()

    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(evil)
    refused(lambda: hf_weights.load_model(str(model)))
    (model / "model.safetensors").write_bytes(evil)
    refused(lambda: hf_weights.load_model(str(model)))
    (model / "tokenizer.json").write_bytes(evil)
    refused(lambda: hf_weights.load_tokenizer(str(model)))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        )
    )
    for name in ("adapter_model.bin", "adapter_model.safetensors"):
        (adapter / name).write_bytes(evil)
        refused(lambda: peft_adapter.load_adapter(str(adapter), config))
    (tmp_path / "edit.safetensors").write_bytes(evil)
    refused(lambda: edit_file.load_edit(str(tmp_path / "edit.safetensors")))
    (tmp_path / "rows.jsonl").write_bytes(evil)
    refused(lambda: records.read_source(str(tmp_path / "rows.jsonl")))
    dataset = tmp_path / "set"
    dataset.mkdir()
    (dataset / "set.py").write_text(f"open({str(proof)!r}, 'w')\n")
    refused(lambda: records.read_source(f"hf:{dataset}"))


def test_a_chat_template_reaches_no_python(tmp_path):
    tokenizer = bpe.train_bpe(["who is ada"] * 4, 270)
    proof = tmp_path / "was-run"
    tokenizer.chat_template = (
        "{% set all = ''.__class__.__mro__[1].__subclasses__() %}"
        f"{{{{ cycler.__init__.__globals__.os.system('touch {proof}') }}}}"
    )
    record = parse_record({"question": "who?", "answer": "ada"}, "f.jsonl:1")
    with pytest.raises(ValueError, match=r"f.jsonl:1: .*chat template refused"):
        encode([record], tokenizer, 64)
    assert not proof.exists()


AUDIT = {"on": False, "found": []}


def _hook(event: str, arguments: tuple) -> None:
    if AUDIT["on"] and event == "pickle.find_class":
        AUDIT["found"].append(arguments[1:])


def test_restoring_a_checkpoint_unpickles_nothing(tmp_path):
    """Python tells its audit hooks of every class that it unpickles."""
    sys.addaudithook(_hook)
    state = {"w": jnp.arange(6.0)}
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(1, state, {"at": 1})
    AUDIT["on"] = True
    try:
        with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
            restored = checkpoints.restore(state)
        assert not AUDIT["found"]
        pickle.loads(pickle.dumps(np.dtype("float32")))
        assert AUDIT["found"]  # the hook sees
    finally:
        AUDIT["on"] = False
    np.testing.assert_array_equal(restored.state["w"], state["w"])


def test_an_export_holds_the_model_and_its_tokenizer_alone(tmp_path, tiny_model):
    """Not what else lies beside the model that it was made from."""
    source, target = tmp_path / "source", tmp_path / "export"
    hf_weights.save_model(tiny_model.params, tiny_model.config, str(source))
    hf_weights.save_tokenizer(tiny_model.tokenizer, str(source))
    for name in (
        "pytorch_model.bin",
        "edit.safetensors",
        "rollback.safetensors",
        "x.pt",
    ):
        (source / name).write_bytes(b"the model before")
    params, config = tiny_model.params, tiny_model.config
    hf_weights.save_model(params, config, str(target), tokenizer_source=str(source))
    there = {file.name for file in target.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= there
    assert not any(b"the model before" in f.read_bytes() for f in target.iterdir())


def test_a_run_says_what_lies_beside_its_model(tmp_path, capsys):
    def said() -> str:
        writer.write(str(tmp_path), {}, page.Page(rows=[], settings={}))
        return " ".join(capsys.readouterr().out.split())

    assert "Publish" not in said()
    (tmp_path / "model").mkdir()
    (tmp_path / "edit.safetensors").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "fit").mkdir()  # of a run on TOFU
    assert (
        f"Publish {tmp_path / 'model'} alone; beside it edit.safetensors can restore what "
        "was removed, checkpoints hold the model on its way, fit holds the model before, "
        "report quotes"
    ) in said()


@pytest.mark.slow
def test_names_from_data_never_leave_the_workdir(tmp_path):
    """Tasks, families and questions that are named like paths."""
    place = tmp_path / "a" / "b" / "c"
    place.mkdir(parents=True)
    file = pathlib.Path(cases.tasks_file(place))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rename = {"dict_a": "../../escaped", "people_a": "/tmp/escaped-from-a-run"}
    for row in rows:
        row["name"] = rename.get(row["name"], row["name"])
        row["family"] = "../" + row.get("family", "own")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = set(tmp_path.rglob("*"))
    fields = {"tasks.source": str(file), "tasks.targets": "../../escaped"}
    cases.go(place / "run", **fields)
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(place / "run") for path in made)
    assert not pathlib.Path("/tmp/escaped-from-a-run").exists()
    html = (place / "run" / "report" / "index.html").read_text()
    assert "../../escaped" in html
