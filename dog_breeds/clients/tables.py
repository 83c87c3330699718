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

# known: yes or no. candidates: class names, separated by blanks. error: the handler's error code,
# with the breed empty. model: the digest of the model file, see facts.model_digest.
COLUMNS = ("file", "breed", "probability", "known", "candidates", "error", "model")
OLD_COLUMNS = ("file", "breed", "probability", "known", "error")  # of tables up to version 1.0
MARK = "\ufeff"  # without this mark, spreadsheets do not read a file as UTF-8
ENCODINGS = ("cp1252", "cp850", "mac_roman", "cp1250")  # other encodings that spreadsheets write
DELIMITERS = ",;\t"  # spreadsheets use the delimiter that is usual in their user's country
# Texts that a spreadsheet takes for a formula, also with full-width signs and after blanks
FORMULA = re.compile(r"[\s\0]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")

Row = dict[str, object]  # column -> cell


def row_for(name: str, answer: Mapping, model: str) -> Row:
    """Return the row of a photo with this name and answer. `model` is the model file's digest."""
    row = dict.fromkeys(COLUMNS, "") | {"file": file_cell(name), "model": model}
    if "error" in answer:
        return row | {"error": answer["error"]["code"]}
    breed, probability = next(iter(answer["prediction"].items()))
    # Blanks separate the candidates, so a class name must not contain any
    candidates = " ".join(name.replace(" ", "_") for name in answer.get("candidates") or ())
    known = "yes" if answer["known"] else "no"
    return row | {
        "breed": text_cell(breed),
        "probability": probability,
        "known": known,
        "candidates": text_cell(candidates),
    }


def file_cell(name: str) -> str:
    """Return a file's name as a cell.

    "./" is put before a name that a spreadsheet would take for a formula. A byte that is not UTF-8
    becomes a text such as "\\xff".
    """
    name = os.fsencode(name).decode("utf-8", "backslashreplace")
    return f"./{name}" if FORMULA.match(name) or name.startswith("./") else name


def text_cell(text: str) -> str:
    """Return another text as a cell, with ' before a text that would be taken for a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def file_key(cell: str) -> str:
    """Return a key by which a file's name and its cell can be compared.

    The key is the same for a file's name, for its cell, and for its cell after a spreadsheet has
    changed the line breaks.
    """
    cell = os.fsencode(cell).decode("utf-8", "backslashreplace").removeprefix("./")
    return re.sub(r"\r\n?", "\n", cell)


def encode(rows: Iterable[Row], columns: Iterable[str] = COLUMNS, delimiter: str = ",") -> bytes:
    """Return rows as the bytes of a table, without the first line."""
    text = io.StringIO(newline="")  # the csv module writes its own line ends
    csv.writer(text, delimiter=delimiter).writerows([row[c] for c in columns] for row in rows)
    return text.getvalue().encode()


def encode_head(columns: Iterable[str] = COLUMNS, delimiter: str = ",") -> bytes:
    """Return the first bytes of a table: the mark and the names of the columns."""
    return MARK.encode() + encode([{name: name for name in columns}], columns, delimiter)


# --- Continue a table -----------------------------------------------------------------------------


class Form(NamedTuple):
    """The form of a table on disk."""

    encoding: str
    columns: list[str]  # in the order of the file
    delimiter: str

    @property
    def final_columns(self) -> list[str]:
        """The columns that the table will have: ours, then those that the user has added."""
        return [*COLUMNS, *(name for name in self.columns if name and name not in COLUMNS)]


class Continued(NamedTuple):
    """A table on disk to which rows can be appended."""

    files: set[str]  # file_key of each row
    columns: list[str]
    delimiter: str
    without_model: int  # number of rows without a model's digest


def continue_table(table: Path, folder: Path, model: str) -> Continued:
    """Prepare a table for further rows: bring it into today's form, or create it.

    The function reads tables from killed runs, older versions and spreadsheets. It drops half rows
    and blank lines, keeps another delimiter and further columns, and accepts a missing mark and
    other encodings. `folder` has the photos. `model` is the digest of the model for the new rows.
    Raises ValueError if the file is not such a table, or has rows of another model.
    """
    form = read_form(table)
    if not form:
        with atomic_path(table) as temporary:
            temporary.write_bytes(encode_head())
        return Continued(set(), list(COLUMNS), ",", 0)
    columns, delimiter = form.final_columns, form.delimiter
    head = encode_head(columns, delimiter)
    files, others, without_model = set(), set(), 0
    # First only compare: most tables already have today's form, and need not be written again
    with open(table, "rb") as file:
        unchanged = file.read(len(head)) == head
        for row in read_rows(table, form, folder, model):
            record = encode([row], columns, delimiter)
            unchanged = unchanged and file.read(len(record)) == record
            files.add(file_key(row["file"]))
            without_model += not row["model"]
            others |= {row["model"]} - {"", model}
        unchanged = unchanged and not file.read(1)
    if others:
        raise ValueError(
            f"{table} has rows of the model {min(map(str, others))}, but the model file now is "
            f"{model}; name another table, or delete these rows"
        )
    if not unchanged:
        with atomic_path(table) as temporary, open(temporary, "wb") as file:
            file.write(head)
            for row in read_rows(table, form, folder, model):
                file.write(encode([row], columns, delimiter))
    return Continued(files, columns, delimiter, without_model)


def read_form(table: Path) -> Form | None:
    """Return the form of a table, or None if it is missing or its first line is not complete.

    Raises ValueError if the file is not such a table.
    """
    if not table.exists():
        return None
    with open(table, "rb") as file:
        start = file.read(4096)
    if any(head.startswith(start) for head in (encode_head(), encode_head(OLD_COLUMNS)[3:])):
        return None
    # Excel's format "Unicode text" is UTF-16
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    for line in start.decode(encoding, "replace").splitlines():
        if line.strip(DELIMITERS) and not is_hint(line):
            for delimiter in DELIMITERS:
                columns = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
                if set(OLD_COLUMNS) <= set(columns):
                    return Form(encoding, columns, delimiter)
            break
    raise ValueError(f"{table} exists, but is not a table of this program; name another file")


def is_hint(line: str) -> bool:
    """Return whether a line tells Excel the delimiter, such as sep=;"""
    return re.fullmatch(r"sep=.\s*", line) is not None


def read_rows(table: Path, form: Form, folder: Path, model: str) -> Iterator[Row]:
    """Yield the complete rows of a table in today's form.

    Raises ValueError if the file cannot be read as a table.
    """
    head = False
    try:
        # surrogateescape keeps bytes of other encodings, for `decoded`
        with open(table, newline="", encoding=form.encoding, errors="surrogateescape") as file:
            for record in whole_records(file):
                cells = parse(record, form.delimiter)
                # A spreadsheet with another delimiter has read and saved the row as one cell
                if len(cells) == 1:
                    cells = parse(cells[0], form.delimiter)
                if not any(cells) or (not head and is_hint(record)):
                    continue
                if head:
                    cells = decoded(cells, form.columns.index("file"), folder)
                    yield present_row(dict(zip(form.columns, cells, strict=False)), form, model)
                head = True
    except (csv.Error, UnicodeError) as error:
        raise ValueError(
            f"{table} cannot be read as a table ({error}); name another file"
        ) from None


def whole_records(file: Iterable[str]) -> Iterator[str]:
    """Yield the complete records of a CSV file. A record can span several lines."""
    record = ""
    for line in file:
        record += line
        # An odd number of quotes: the record goes on in the next line
        if record.count('"') % 2 == 0 and record.endswith(("\n", "\r")):
            yield record
            record = ""


def parse(record: str, delimiter: str) -> list[str]:
    """Return the cells of a record."""
    return next(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter), [])


def decoded(cells: list[str], file: int, folder: Path) -> list[str]:
    """Decode the cells of a row that a spreadsheet saved in the encoding of its system.

    The right encoding is the one in which the cell with the index `file` is the name of a photo in
    the folder. If there is none, bytes that are not UTF-8 become texts such as "\\xff".
    """
    if not any(re.search("[\udc80-\udcff]", cell) for cell in cells):
        return cells
    for encoding in ENCODINGS:
        texts = [
            cell.encode("utf-8", "surrogateescape").decode(encoding, "replace") for cell in cells
        ]
        if (folder / texts[file]).exists():
            return texts
    return [os.fsencode(cell).decode("utf-8", "backslashreplace") for cell in cells]


def present_row(old: dict[str, str], form: Form, model: str) -> Row:
    """Return a row of any form in today's form."""
    row = {name: old.get(name, "") for name in form.final_columns}
    row["file"] = file_cell(row["file"].removeprefix("./"))
    # In many countries, spreadsheets write a decimal comma
    row["probability"] = re.sub(r"(?<=\d),(?=\d)", ".", row["probability"])
    if is_same_model(row["model"], model):
        row["model"] = model
    return {**row}


def is_same_model(cell: str, model: str) -> bool:
    """Return whether a cell of the column model contains this digest.

    A spreadsheet takes some digests for numbers: it saves 00123456 as 123456, and 12345e67 as
    1.23E+71.
    """
    try:
        saved, expected = float(cell.replace(",", ".")), float(model)
    except ValueError:
        return cell == model
    is_close = math.isfinite(expected) and math.isclose(saved, expected, rel_tol=0.01)
    return cell == model or is_close
