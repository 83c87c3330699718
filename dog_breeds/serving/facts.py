"""Read and write the facts in a model file: labels and metadata in a zip archive at its end.

TFLite's own metadata have the same form, and TFLite ignores bytes after the network.
"""

import hashlib
import json
import zipfile
from pathlib import Path


def append_facts(file: Path, facts: dict) -> None:
    """Append labels.txt and metadata.json to a .tflite file.

    The fact "model_sha256" is the digest of the network, so a later change of its bytes is noticed.
    """
    facts = facts | {"model_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "".join(f"{label}\n" for label in facts["classes"]))
        archive.writestr("metadata.json", json.dumps(facts, indent=1) + "\n")


def read_facts(file: Path) -> dict:
    """Return the metadata of a .tflite file.

    Raises ValueError if the file has none, or if they belong to another network.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            labels = archive.read("labels.txt").decode().splitlines()
            facts = json.loads(archive.read("metadata.json"))
            length = min(entry.header_offset for entry in archive.infolist())  # of the network
        classes, digest = facts["classes"], facts.get("model_sha256")
        if digest and digest != hashlib.sha256(file.read_bytes()[:length]).hexdigest():
            raise ValueError("its bytes have changed since it was made")
        if labels != classes or len(set(classes)) < len(classes):
            raise ValueError("labels.txt does not match the classes of metadata.json")
        return facts
    except (zipfile.BadZipFile, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file.name} is damaged, or was not made by convert_model.py: {error}"
        ) from error


def model_digest(model: Path) -> str:
    """Return the first eight hex digits of a model file's SHA-256."""
    return hashlib.sha256(model.read_bytes()).hexdigest()[:8]
