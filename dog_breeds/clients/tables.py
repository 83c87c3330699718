"""Write and continue tables of answers about many photos. The tables are CSV files."""

import csv
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dog_breeds.console import atomic_path

# known: "yes" or "no". candidates: class names, separated by blanks. error: the handler's error
# code; the breed is then empty. model: the digest of the model file, as in facts.model_digest.
COLUMNS = ("file", "breed", "probability", "known", "candidates", "error", "model")
OLD_COLUMNS = ("file", "breed", "probability", "known", "error")  # of tables up to version 1.0
MARK = "\ufeff"  # byte-order mark, without which spreadsheets do not read a file as UTF-8
ENCODINGS = ("cp1252", "cp850", "mac_roman", "cp1250")  # besides Unicode, in spreadsheets' files
DELIMITERS = ",;\t"  # a spreadsheet writes the delimiter that is usual in its user's country
# Texts that spreadsheets run as a formula, also after blanks and with full-width signs. A photo's
# name could otherwise run a formula on the computer of whoever opens the table.
FORMULA = re.compile(r"[\s\0]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")

Row = dict[str, object]  # name of a column -> cell


def row_for(name: str, answer: Mapping, model: str) -> Row:
    """Return the row of a photo from its name, its answer, and the digest of the model file."""
    row = dict.fromkeys(COLUMNS, "") | {"file": _file_cell(name), "model": model}
    if "error" in answer:
        return row | {"error": answer["error"]["code"]}
    breed, probability = next(iter(answer["prediction"].items()))
    # Blanks separate the candidates, so replace blanks in the names of classes
    candidates = " ".join(name.replace(" ", "_") for name in answer.get("candidates") or ())
    known = "yes" if answer["known"] else "no"
    return row | {
        "breed": _text_cell(breed),
        "probability": probability,
        "known": known,
        "candidates": _text_cell(candidates),
    }


def _file_cell(name: str) -> str:
    """Return a file's name as a cell.

    A name that a spreadsheet would take for a formula gets "./" in front, with which it is still a
    valid path. A byte that is not UTF-8 becomes a text such as "\\xff".
    """
    name = os.fsencode(name).decode("utf-8", "backslashreplace")
    return f"./{name}" if FORMULA.match(name) or name.startswith("./") else name


def _text_cell(text: str) -> str:
    """Return any other text as a cell. A text that would be taken for a formula gets ' in front."""
    return f"'{text}" if FORMULA.match(text) else text


def file_key(cell: str) -> str:
    """Return a key to compare the name of a file with cells of tables.

    The key is the same for the name, for its cell, and for its cell after a spreadsheet has changed
    the line breaks.
    """
    cell = os.fsencode(cell).decode("utf-8", "backslashreplace").removeprefix("./")
    return re.sub(r"\r\n?", "\n", cell)


def encode(rows: Iterable[Row], columns: Iterable[str] = COLUMNS, delimiter: str = ",") -> bytes:
    """Return rows as bytes of a table. The names of the columns are not included."""
    text = io.StringIO(newline="")  # newline="", because csv writes \r\n itself
    csv.writer(text, delimiter=delimiter).writerows([row[c] for c in columns] for row in rows)
    return text.getvalue().encode()


def encode_head(columns: Iterable[str] = COLUMNS, delimiter: str = ",") -> bytes:
    """Return the first bytes of a table: the byte-order mark and the names of the columns."""
    return MARK.encode() + encode([{name: name for name in columns}], columns, delimiter)


# --- Continue a table -----------------------------------------------------------------------------


class TableFormat(NamedTuple):
    """The format of a table on disk."""

    encoding: str
    columns: list[str]  # in the order of the file
    delimiter: str

    @property
    def final_columns(self) -> list[str]:
        """The columns of the continued table: COLUMNS, then those that a user has added."""
        return [*COLUMNS, *(name for name in self.columns if name and name not in COLUMNS)]


class ContinuedTable(NamedTuple):
    """A table on disk to which rows can be appended."""

    files: set[str]  # the file_key of each row
    columns: list[str]  # in the order of the file
    delimiter: str
    without_model: int  # number of rows without the digest of a model


def continue_table(table: Path, folder: Path, model: str) -> ContinuedTable:
    """Prepare a table for further rows: create it, or convert it to the current format.

    The table can come from a killed run, an older version of this program or a spreadsheet. The
    function drops incomplete rows and blank lines, keeps the delimiter and columns that the user
    has added, and accepts other encodings and a missing byte-order mark. `folder` has the photos.
    `model` is the digest of the model for the new rows. Raises ValueError if the file is not such a
    table, or has rows of another model.
    """
    old_format = _read_format(table)
    if not old_format:
        with atomic_path(table) as temporary:
            temporary.write_bytes(encode_head())
        return ContinuedTable(set(), list(COLUMNS), ",", 0)
    columns, delimiter = old_format.final_columns, old_format.delimiter
    head = encode_head(columns, delimiter)
    files, others, without_model = set(), set(), 0
    # Compare first: most tables already have the current format, and need not be written again
    with open(table, "rb") as file:
        unchanged = file.read(len(head)) == head
        for row in _read_rows(table, old_format, folder, model):
            record = encode([row], columns, delimiter)
            unchanged = unchanged and file.read(len(record)) == record
            files.add(file_key(row["file"]))
            without_model += not row["model"]
            others |= {row["model"]} - {"", model}
        unchanged = unchanged and not file.read(1)
    if others:
        raise ValueError(
            f"{table} has rows of the model {min(map(str, others))}, but the model file is now "
            f"{model}; use another table, or delete these rows"
        )
    if not unchanged:
        with atomic_path(table) as temporary, open(temporary, "wb") as file:
            file.write(head)
            for row in _read_rows(table, old_format, folder, model):
                file.write(encode([row], columns, delimiter))
    return ContinuedTable(files, columns, delimiter, without_model)


def _read_format(table: Path) -> TableFormat | None:
    """Return the format of a table, or None if the file is missing or its first line is incomplete.

    Raises ValueError if the file is not a table of this program.
    """
    if not table.exists():
        return None
    with open(table, "rb") as file:
        start = file.read(4096)
    # A run was killed while it wrote the first line. Tables up to version 1.0 had no byte-order
    # mark, which is 3 bytes.
    if any(head.startswith(start) for head in (encode_head(), encode_head(OLD_COLUMNS)[3:])):
        return None
    # UTF-16 is Excel's format "Unicode text". utf-8-sig also reads UTF-8 without a mark.
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for line in start.decode(encoding, "replace").splitlines():
        if line.strip(DELIMITERS) and not _is_delimiter_hint(line):
            for delimiter in DELIMITERS:
                columns = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
                if set(OLD_COLUMNS) <= set(columns):
                    return TableFormat(encoding, columns, delimiter)
            break
    raise ValueError(f"{table} exists, but is not a table of this program; use another file")


def _is_delimiter_hint(line: str) -> bool:
    """Return whether a line only tells Excel the delimiter, as in "sep=;"."""
    return re.fullmatch(r"sep=.\s*", line) is not None


def _read_rows(table: Path, old_format: TableFormat, folder: Path, model: str) -> Iterator[Row]:
    """Yield the complete rows of a table in the current format.

    Raises ValueError if the file cannot be read as a table.
    """
    head_seen = False
    try:
        # surrogateescape keeps bytes that are not UTF-8 until `_decode_cells` finds their encoding
        with open(
            table, newline="", encoding=old_format.encoding, errors="surrogateescape"
        ) as file:
            for record in whole_records(file):
                cells = _parse_record(record, old_format.delimiter)
                # A spreadsheet that expects another delimiter reads and saves a row as one cell
                if len(cells) == 1:
                    cells = _parse_record(cells[0], old_format.delimiter)
                if not any(cells) or (not head_seen and _is_delimiter_hint(record)):
                    continue
                if head_seen:
                    cells = _decode_cells(cells, old_format.columns.index("file"), folder)
                    yield _current_row(
                        dict(zip(old_format.columns, cells, strict=False)), old_format, model
                    )
                head_seen = True
    except (csv.Error, UnicodeError) as error:
        raise ValueError(f"{table} cannot be read as a table ({error}); use another file") from None


def whole_records(file: Iterable[str]) -> Iterator[str]:
    """Yield the complete records of a CSV file. A record can span several lines."""
    record = ""
    for line in file:
        record += line
        # After an odd number of quotes, the line break is within a cell: the record continues
        if record.count('"') % 2 == 0 and record.endswith(("\n", "\r")):
            yield record
            record = ""


def _parse_record(record: str, delimiter: str) -> list[str]:
    """Return the cells of a record."""
    return next(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter), [])


def _decode_cells(cells: list[str], file: int, folder: Path) -> list[str]:
    """Decode the cells of a row that a spreadsheet saved in the encoding of its system.

    The right encoding is the one in which the cell with the index `file` is the name of a photo in
    the folder. If there is none, bytes that are not UTF-8 become texts such as "\\xff".
    """
    # These characters are how surrogateescape represents bytes
    if not any(re.search("[\udc80-\udcff]", cell) for cell in cells):
        return cells
    for encoding in ENCODINGS:
        texts = [
            cell.encode("utf-8", "surrogateescape").decode(encoding, "replace") for cell in cells
        ]
        if (folder / texts[file]).exists():
            return texts
    return [os.fsencode(cell).decode("utf-8", "backslashreplace") for cell in cells]


def _current_row(old: dict[str, str], old_format: TableFormat, model: str) -> Row:
    """Return a row of any format in the current format."""
    row = {name: old.get(name, "") for name in old_format.final_columns}
    row["file"] = _file_cell(row["file"].removeprefix("./"))
    # In many countries, spreadsheets write a decimal comma
    row["probability"] = re.sub(r"(?<=\d),(?=\d)", ".", row["probability"])
    if _is_same_model(row["model"], model):
        row["model"] = model
    return {**row}


def _is_same_model(cell: str, model: str) -> bool:
    """Return whether a cell of the column `model` is this digest.

    A spreadsheet takes some digests for numbers: it saves 00123456 as 123456, and 12345e67 as
    1.23E+71.
    """
    try:
        saved, expected = float(cell.replace(",", ".")), float(model)
    except ValueError:
        return cell == model
    is_close = math.isfinite(expected) and math.isclose(saved, expected, rel_tol=0.01)
    return cell == model or is_close
