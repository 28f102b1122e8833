# SPDX-License-Identifier: Apache-2.0
"""Hugging Face datasets, TFDS without TensorFlow, the benchmark, and TOFU's files."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from etils import epath

import jax_surgery.benchmarks  # noqa: F401, makes embedded:NAME readable
from jax_surgery.benchmarks import tasks
from jax_surgery.data import bpe, records
from jax_surgery.data.packing import Packer
from jax_surgery.data.tokens import encode

TOFU = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "tofu"
ROWS = [{"text": "ada lives in rome"}, {"text": "bo lives in oslo"}]


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets")


def test_a_saved_hugging_face_dataset(tmp_path, datasets):
    saved = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(str(saved))
    read = records.read_source(f"hf:{saved}")
    assert [r.text for r in read] == [row["text"] for row in ROWS]
    assert read[1].origin == f"hf:{saved}:2"
    with pytest.raises(ValueError, match="has no splits; leave out :test"):
        records.read_source(f"hf:{saved}:test")
    with pytest.raises(ValueError, match="no config; leave out @en"):
        records.read_source(f"hf:{saved}@en")


def test_splits_of_a_saved_hugging_face_dataset(tmp_path, datasets):
    saved = tmp_path / "saved"
    splits = {
        "train": datasets.Dataset.from_list(ROWS),
        "test": datasets.Dataset.from_list(ROWS[:1]),
    }
    datasets.DatasetDict(splits).save_to_disk(str(saved))
    assert len(records.read_source(f"hf:{saved}:train")) == 2
    assert len(records.read_source(f"hf:{saved}:test")) == 1
    for source in (f"hf:{saved}", f"hf:{saved}:tset"):
        with pytest.raises(ValueError, match="has the splits train, test; name one"):
            records.read_source(source)


def test_saved_data_sets_in_a_bucket(bucket, datasets, tmp_path, monkeypatch):
    """Their names hold a colon of their own, before that of the split."""
    whole = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=whole).save_to_disk(f"{bucket}/t/saved")
    read = records.read_source(f"hf:{bucket}/t/saved:train")
    assert [r.text for r in read] == [row["text"] for row in ROWS]
    with pytest.raises(ValueError, match="has the splits train; name one"):
        records.read_source(f"hf:{bucket}/t/saved:test")
    with pytest.raises(ValueError, match="no config; leave out @en"):
        records.read_source(f"hf:{bucket}/t/saved@en:train")
    # Beside a tasks file they are found by their names there.
    file = epath.Path(bucket) / "t" / "tasks.jsonl"
    file.write_text('{"name": "a", "data": "hf:saved:train"}')
    monkeypatch.chdir(tmp_path)
    found = tasks.read_tasks(str(file))["a"].data
    assert found == f"hf:{bucket}/t/saved:train"
    assert len(records.read_source(found)) == len(ROWS)


def test_a_hugging_face_dataset_by_name(tmp_path, datasets, monkeypatch):
    """A folder of files is loaded as a name of the hub is, slices included."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "name"
    folder.mkdir()
    lines = [{"question": "who?", "answer": f"ada {i}", "stars": i} for i in range(10)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match="(?s)10 bad rows in .*field 'stars'.*#text"):
        records.read_source(f"hf:{folder}")
    chosen = records.read_source(f"hf:{folder}:train[:30%]#question+answer")
    assert [(r.question, r.answer) for r in chosen] == [
        ("who?", f" ada {i}") for i in range(3)
    ]


def test_rows_of_several_forms_in_one_hugging_face_dataset(tmp_path, datasets):
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "a"},
    ]
    rows = [{"text": "a", "messages": None}, {"text": None, "messages": messages}]
    saved = str(tmp_path / "saved")
    datasets.Dataset.from_list(rows).save_to_disk(saved)
    plain, chat = records.read_source(f"hf:{saved}")
    assert plain.text == "a"
    assert chat.messages == (("user", "hi"), ("assistant", "a"))


@pytest.fixture(scope="module")
def builder():
    """A TFDS builder of all the kinds of rows."""
    tfds = pytest.importorskip("tensorflow_datasets")
    text = tfds.features.Text()

    class TinyChats(tfds.core.GeneratorBasedBuilder):
        """Two chats and a text a split."""

        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = (
            tfds.core.BuilderConfig(name="texts"),
            tfds.core.BuilderConfig(name="chats"),
        )

        def _info(self):
            chat = tfds.features.Sequence({"role": text, "content": text})
            features = {"texts": {"text": text}, "chats": {"messages": chat}}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features[self.builder_config.name]),
            )

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(2),
                "test": self._generate_examples(1),
            }

        def _generate_examples(self, count):
            for i in range(count):
                if self.builder_config.name == "texts":
                    yield i, {"text": f"é {i}"}
                else:
                    roles = ("user", "assistant")
                    yield i, {"messages": [{"role": r, "content": r} for r in roles]}

    return TinyChats


@pytest.mark.parametrize("config", ["texts", "chats"])
def test_a_prepared_tfds_directory(builder, config, tmp_path):
    prepared = builder(
        data_dir=str(tmp_path), config=config, file_format="array_record"
    )
    prepared.download_and_prepare()
    source = f"tfds:{prepared.data_path}"
    read = records.read_source(source)
    assert len(read) == 2  # "train" where no split is named
    if config == "texts":
        assert sorted(r.text for r in read) == ["é 0", "é 1"]
    else:
        expected = (("user", "user"), ("assistant", "assistant"))
        assert {r.messages for r in read} == {expected}
    assert read[0].origin == f"{source}:1"
    assert len(records.read_source(f"{source}:test")) == 1
    assert len(records.read_source(f"{source}:train[:1]+test")) == 2
    with pytest.raises(ValueError, match=r"has the splits .*train.*name one"):
        records.read_source(f"{source}:validation")


def test_the_benchmark_reads_alike_from_tfds_and_by_name(tmp_path):
    """In a process of its own: TFDS reads where its data lies on import."""
    code = (
        "import sys\n"
        "import jax_surgery.benchmarks\n"
        "from jax_surgery.data.records import read_source\n"
        "tfds = read_source('tfds:embedded_world/texts:1.0.0:obsolete')\n"
        "assert len(read_source('tfds:embedded_world/texts:obsolete[:5]')) == 5\n"
        "here = read_source('embedded:obsolete')\n"
        "assert sorted(r.text for r in tfds) == sorted(r.text for r in here)\n"
        "assert len(here) >= 119\n"
        "assert 'tensorflow' not in sys.modules and 'torch' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "TFDS_DATA_DIR": str(tmp_path)},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.skipif(not TOFU.is_dir(), reason="no ../shared/data/tofu here")
def test_tofu_is_read_learned_and_packed():
    forget = records.read_source(str(TOFU / "forget05.jsonl"))
    retain = records.read_source(str(TOFU / "retain95.jsonl"))
    assert (len(forget), len(retain)) == (200, 3800)
    records.check_overlap(forget, retain)
    full = records.read_source(str(TOFU / "full.jsonl"))
    with pytest.raises(ValueError, match="200 texts are in both"):
        records.check_overlap(forget, full)
    with pytest.raises(ValueError, match="unknown field 'paraphrased_answer'"):
        records.read_source(str(TOFU / "forget05_perturbed.jsonl"))
    chosen = f"{TOFU / 'forget05_perturbed.jsonl'}#question+answer=paraphrased_answer"
    assert len(records.read_source(chosen)) == 200

    tokenizer = bpe.train_bpe([r.text for r in forget], 600)
    documents = encode(forget, tokenizer, 512)
    assert len(documents) == 200
    for record, document in zip(forget, documents, strict=True):
        learned = tokenizer.decode(document.tokens[document.learned])
        assert learned == f" {record.answer.strip()}</s>"
    rows = Packer(documents, 512, "sequences").pack(0)
    assert rows.segment_ids_BT.max(axis=1).sum() == 200
    assert rows.weights_BT.sum() == pytest.approx(200, rel=1e-5)
