# SPDX-License-Identifier: Apache-2.0
"""What the scripts of results/ share: the processor, and other checkouts in turn."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A checkout of an older version, whose step only counts.
OLDER = """
import jax_surgery
def prepare(directory, folder):
    return directory, [], [jax_surgery.MARK], 0
def serve_ours(connection, model, batches, reference):
    raise NotImplementedError
class Racer:
    def __init__(self, target, model, batches, reference):
        assert target is serve_ours
        self.all = [model, *batches, reference]
    def run(self, steps):
        return 0.5, [{"said": self.all}] * steps
    def end(self):
        return 3.0
"""


@pytest.fixture
def scripts(monkeypatch):
    """The folder results/ as its scripts see it."""
    monkeypatch.syspath_prepend(ROOT / "results")
    import checkouts
    import cpu_speed
    import processor

    return checkouts, cpu_speed, processor


def older(folder: pathlib.Path, text: str = OLDER) -> str:
    """A checkout with a package and a script of its own."""
    for name, code in (
        ("jax_surgery/__init__.py", "MARK = 'its own package'"),
        ("benchmarks/cpu_speed.py", text),
    ):
        file = folder / name
        file.parent.mkdir(parents=True)
        file.write_text(code)
    return str(folder)


def test_another_checkout_runs_its_own_step_on_its_own_package(scripts, tmp_path):
    _, cpu_speed, _ = scripts
    racer = cpu_speed.CheckoutRacer(older(tmp_path / "old"), str(tmp_path), "/tmp")
    seconds, metrics = racer.run(2)
    assert (seconds, len(metrics)) == (0.5, 2)
    assert metrics[0]["said"] == [str(tmp_path), "its own package", "cached"]
    assert racer.end() == 3.0


def test_a_checkout_that_fails_ends_the_race(scripts, tmp_path):
    _, cpu_speed, _ = scripts
    checkout = older(tmp_path / "old", "raise SystemExit(1)")
    racer = cpu_speed.CheckoutRacer(checkout, str(tmp_path), "/tmp")
    with pytest.raises((EOFError, OSError)):
        racer.run(1)


def test_a_checkout_is_found_and_compiles_anew(scripts, tmp_path, monkeypatch):
    checkouts, _, _ = scripts
    file = checkouts.script(str(ROOT), "cpu_speed.py")
    assert file == ROOT / "results" / "cpu_speed.py"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    found = checkouts.environment(file)
    assert "JAX_COMPILATION_CACHE_DIR" not in found
    assert found["PYTHONPATH"].split(os.pathsep) == [str(ROOT), str(ROOT / "results")]
    with pytest.raises(
        FileNotFoundError, match=f"--before={tmp_path} has no.py neither"
    ):
        checkouts.script(str(tmp_path), "no.py")


def test_a_table_names_the_processor_and_its_rate(scripts, tmp_path, monkeypatch):
    _, _, processor = scripts
    info = tmp_path / "cpuinfo"
    info.write_text("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\n")
    monkeypatch.setattr(processor, "CPUINFO", info)
    assert processor.name() == "AMD EPYC, cpu family 25, model 17"
    said = processor.sentence([100.0, 120.0, 90.0])
    assert "AMD EPYC" in said and "100 GFLOP/s" in said and "90 to 120" in said
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert processor.name()
