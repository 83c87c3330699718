"""The facts in a model file: what is appended is read again, and what does not belong to the file
is refused.
"""

import json
import zipfile

import pytest

from dog_breeds.serving.facts import append_facts, read_facts

FACTS = {"classes": ["pug", "samoyed"], "input": {"height": 299}}
MODEL = bytes(range(256)) * 40


def test_appended_facts_are_read_again(tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(MODEL)
    append_facts(file, FACTS)
    assert file.read_bytes().startswith(MODEL)
    facts = read_facts(file)
    assert facts.pop("model_sha256") and facts == FACTS


def archive(labels: str = "pug\nsamoyed\n", facts: str = json.dumps(FACTS)) -> dict[str, str]:
    """The members of an archive that fits, but for what is given."""
    return {"labels.txt": labels, "metadata.json": facts}


@pytest.mark.parametrize(
    ("members", "part"),
    [
        pytest.param(None, "not a zip file", id="no archive"),
        pytest.param({"labels.txt": "pug\nsamoyed\n"}, "metadata.json", id="labels only"),
        pytest.param({"metadata.json": json.dumps(FACTS)}, "labels.txt", id="no labels"),
        pytest.param(archive(facts="{"), "Expecting property name", id="no JSON"),
        pytest.param(archive(facts="[]"), "list", id="no object"),
        pytest.param(archive(facts="{}"), "classes", id="no classes"),
        pytest.param(archive(facts='{"classes": 2}'), "", id="classes are no list"),
        pytest.param(
            archive(labels="samoyed\npug\n"), "labels.txt does not match", id="other order"
        ),
        pytest.param(archive("pug\n"), "labels.txt does not match", id="fewer labels"),
        pytest.param(
            archive("pug\npug\n", '{"classes": ["pug", "pug"]}'),
            "labels.txt does not match",
            id="twice",
        ),
        pytest.param(
            archive(facts=json.dumps(FACTS | {"model_sha256": "0" * 64})),
            "have changed",
            id="other bytes",
        ),
    ],
)
def test_files_without_facts_of_their_own_are_refused(tmp_path, members, part):
    file = tmp_path / "model.tflite"
    file.write_bytes(MODEL)
    if members is not None:
        with zipfile.ZipFile(file, "a") as target:
            for name, content in members.items():
                target.writestr(name, content)
    with pytest.raises(
        ValueError, match=f"model.tflite is damaged, or was not made by convert_model.py: .*{part}"
    ):
        read_facts(file)


@pytest.mark.parametrize("cut", [0, 1, 100, len(MODEL), -100])
def test_cut_off_files_are_refused(tmp_path, cut):
    whole, file = tmp_path / "whole.tflite", tmp_path / "cut.tflite"
    whole.write_bytes(MODEL)
    append_facts(whole, FACTS)
    file.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is damaged, or was not made by"):
        read_facts(file)


def test_a_changed_byte_is_noticed(tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(MODEL)
    append_facts(file, FACTS)
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    with pytest.raises(ValueError, match="its bytes have changed since it was made"):
        read_facts(file)
