"""Tables of answers: a run continues the tables of spreadsheets, killed runs and older versions."""

import csv
import io
from pathlib import Path

import pytest

from dog_breeds.clients import tables
from dog_breeds.clients.tables import MARK, continue_table, encode, encode_head, row_for

MODEL = "1a2b3c4d"
NAMES = ["a,b.jpg", 'quo"te.jpg', "line\nbreak.jpg", "Ünïcode/ö.jpg", "=sum.jpg", "plain.jpg"]
OLD_HEAD = b"file,breed,probability,known,error\r\n"
ANSWER = {
    "prediction": {"pug": 0.98, "beagle": 0.01},
    "known": True,
    "candidates": ["pug", "a beagle"],
}
ERROR = {"error": {"code": "invalid_image", "message": "it is damaged"}}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a photo for each of NAMES."""
    for name in NAMES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


@pytest.fixture
def table(tmp_path) -> Path:
    """A table with a row for each of NAMES."""
    file = tmp_path / "out.csv"
    file.write_bytes(encode_head() + encode(row_for(name, ANSWER, MODEL) for name in NAMES))
    return file


def resaved(table: Path, encoding: str, errors: str = "strict", **dialect: object) -> bytes:
    """Return a table in the encoding and the dialect in which a spreadsheet saves it."""
    text = io.StringIO(newline="")
    with open(table, newline="", encoding="utf-8-sig") as file:
        csv.writer(text, **dialect).writerows(csv.reader(file))
    return text.getvalue().encode(encoding, errors)


def read_cells(table: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a table."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_the_format_of_a_table(table):
    lines = table.read_bytes().split(b"\r\n")
    assert lines[0] == b"\xef\xbb\xbffile,breed,probability,known,candidates,error,model"
    assert lines[1] == b'"a,b.jpg",pug,0.98,yes,pug a_beagle,,1a2b3c4d'
    assert row_for("x.jpg", ERROR, MODEL) == {
        **dict.fromkeys(tables.COLUMNS, ""),
        "file": "x.jpg",
        "error": "invalid_image",
        "model": MODEL,
    }
    assert row_for("x", {"prediction": {"pug": 1}, "known": False}, MODEL)["candidates"] == ""


@pytest.mark.parametrize(
    "name",
    ["=1+1.jpg", "+1.jpg", "-1.jpg", "@x.jpg", "\t=1.jpg", "\rx.jpg", " =1.jpg", "＝1.jpg", "./x"],  # noqa: RUF001
)
def test_names_that_spreadsheets_would_take_for_formulas_get_a_prefix(name):
    row = row_for(name, {"prediction": {name: 1.0}, "known": True, "candidates": [name]}, MODEL)
    assert row["file"] == f"./{name}"
    if name != "./x":
        assert row["breed"] == f"'{name}"
        assert not tables.FORMULA.match(row["candidates"])
        assert tables.file_key(row["file"]) == tables.file_key(name)


@pytest.mark.parametrize(
    "saved",
    [
        {"encoding": "utf-8-sig"},
        {"encoding": "utf-8"},  # without a byte-order mark
        {"encoding": "utf-8-sig", "delimiter": ";"},
        {"encoding": "utf-8", "delimiter": "\t"},
        {"encoding": "utf-8", "lineterminator": "\n"},
        {"encoding": "utf-8", "quoting": csv.QUOTE_ALL},
        {"encoding": "utf-8", "quoting": csv.QUOTE_NONNUMERIC, "delimiter": ";"},
        {"encoding": "utf-16", "delimiter": "\t"},  # "Unicode text" of Excel
        {"encoding": "cp1252", "delimiter": ";"},  # "CSV" of Excel
        {"encoding": "cp850"},
        {"encoding": "mac_roman", "lineterminator": "\r", "quoting": csv.QUOTE_ALL},
    ],
    ids=str,
)
def test_a_table_that_a_spreadsheet_has_saved(table, folder, saved):
    expected, delimiter = read_cells(table), saved.get("delimiter", ",")
    table.write_bytes(resaved(table, **saved))
    found = continue_table(table, folder, MODEL)
    assert found.files == set(map(tables.file_key, NAMES)) and found.without_model == 0
    assert found.delimiter == delimiter
    assert read_cells(table, delimiter) == expected and table.read_bytes().startswith(MARK.encode())
    before = table.read_bytes()
    assert continue_table(table, folder, MODEL) == found and table.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\r\n", "\r\n\r\n"),  # blank lines
        ("\r\n", "\r\n,,,,,,\r\n"),
        ("\r\n", ",,\r\n"),  # with two empty columns
        (",yes,", ",yes ,"),
        ("0.98", "98%"),
        ("yes", "TRUE"),
        (",pug a_beagle,", ",,"),
        ("file,breed", "sep=,\r\nfile,breed"),  # a hint for Excel
        ("file,breed", "\r\n,,\r\nfile,breed"),
        ("1a2b3c4d\r\nplain.jpg", "1a2b3c4d\nplain.jpg"),
    ],
)
def test_a_table_that_was_edited(table, folder, old, new):
    text = table.read_bytes().decode("utf-8-sig")
    assert old in text
    table.write_bytes(text.replace(old, new).encode())
    assert continue_table(table, folder, MODEL).files == set(map(tables.file_key, NAMES))
    assert [row["file"] for row in read_cells(table)] == [
        f"./{name}" if name.startswith("=") else name for name in NAMES
    ]


def test_a_spreadsheet_that_expects_another_delimiter(table, folder):
    """A German Excel opens a file with commas as one column, and saves each row as one cell."""
    expected, text = read_cells(table), io.StringIO(newline="")
    with open(table, newline="", encoding="utf-8-sig") as file:
        records = [line.removesuffix("\r\n") for line in tables.whole_records(file)]
    csv.writer(text, delimiter=";").writerows([record] for record in records)
    assert '""' in text.getvalue()
    table.write_bytes(text.getvalue().encode())
    assert len(continue_table(table, folder, MODEL).files) == len(NAMES)
    assert read_cells(table) == expected


def test_added_columns_stay_and_missing_columns_are_added(table, folder):
    table.write_bytes(
        b"known;file;notes;breed;error;probability\r\nyes;plain.jpg;lovely;pug;;0,98\r\n"
    )
    found = continue_table(table, folder, MODEL)
    assert found.columns == [*tables.COLUMNS, "notes"] and found.without_model == 1
    assert table.read_bytes().decode("utf-8-sig").splitlines() == [
        "file;breed;probability;known;candidates;error;model;notes",
        "plain.jpg;pug;0.98;yes;;;;lovely",
    ]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", set()),
        (b"fil", set()),
        (MARK.encode()[:2], set()),
        (encode_head()[:20], set()),
        (encode_head()[:-1], set()),
        (encode_head(), set()),
        (OLD_HEAD, set()),
        (OLD_HEAD + b"a.jpg,pug,1.0,yes,\r\nb.j", {"a.jpg"}),
        (OLD_HEAD + b'a.jpg,pug,1.0,yes,\r\n"b\r\n', {"a.jpg"}),
        (OLD_HEAD + b'a.jpg,pug,1.0,yes,\r\n"b\r\n""c.jpg",pug,1.0,yes,', {"a.jpg"}),
        (OLD_HEAD + b'"b\r\n""c.jpg",pug,1.0,yes,\r\n', {'b\n"c.jpg'}),
        (OLD_HEAD + b"a.jpg,pug,1.0,yes,\r\n\r\n", {"a.jpg"}),
        (OLD_HEAD + b"a\xff.jpg,pug,1.0,yes,\r\n", {"a\\xff.jpg"}),  # a name that is not UTF-8
        (encode_head() + b"a.jpg,pug,1.0,yes,pug,,1a2b3c4d\r\nb.jpg,pug,1.0,y", {"a.jpg"}),
        (encode_head() + b"a.jpg,pug,1.0,yes,pug,,1a2b3c4d\r\nb.jpg,,,,,empty,1a2b3", {"a.jpg"}),
    ],
)
def test_incomplete_rows_and_old_tables(tmp_path, content, names):
    table = tmp_path / "out.csv"
    table.write_bytes(content)
    found = continue_table(table, tmp_path, MODEL)
    assert found.files == names and found.columns == list(tables.COLUMNS)
    assert table.read_bytes().startswith(encode_head()) and len(read_cells(table)) == len(names)
    assert found.without_model == (len(names) if OLD_HEAD in content else 0)
    assert continue_table(table, tmp_path, MODEL) == found


@pytest.mark.parametrize(
    "content",
    [
        b"name,age\nrex,3\n",
        b"file,breed\n",
        b"file,breed,probability,known,\n",
        b"\x89PNG\r\n\x1a\n\0\0",
        b"PK\x03\x04 a workbook of Excel",
        b"\n\n\n",
        encode_head() + b"a" * 200_000 + b",,,,,,\r\n",
    ],
)
def test_a_file_that_is_no_table_is_not_changed(tmp_path, content):
    table = tmp_path / "out.csv"
    table.write_bytes(content)
    with pytest.raises(ValueError, match=r"out\.csv .*; use another file"):
        continue_table(table, tmp_path, MODEL)
    assert table.read_bytes() == content


@pytest.mark.parametrize(
    ("digest", "cell"),
    [
        ("00123456", "123456"),
        ("12345678", "12345678"),
        ("12345678", "1.2346E+07"),
        ("12345e67", "1.23E+71"),
        ("12345e67", "1,23E+71"),
        ("00001e05", "100000"),
    ],
)
def test_a_digest_that_a_spreadsheet_has_taken_for_a_number(tmp_path, digest, cell):
    table, row = tmp_path / "out.csv", row_for("a.jpg", ANSWER, digest)
    table.write_bytes(encode_head() + encode([row | {"model": cell}]))
    assert continue_table(table, tmp_path, digest).files == {"a.jpg"}
    assert read_cells(table)[0]["model"] == digest
    table.write_bytes(encode_head() + encode([row | {"model": cell}]))
    with pytest.raises(ValueError, match="use another table, or delete these rows"):
        continue_table(table, tmp_path, "99999999")


def test_rows_of_another_model_are_refused(tmp_path):
    table = tmp_path / "out.csv"
    content = encode_head() + encode([row_for("a.jpg", ANSWER, MODEL)])
    table.write_bytes(content)
    with pytest.raises(ValueError, match=f"rows of the model {MODEL}, but the model file is now "):
        continue_table(table, tmp_path, "99999e99")
    assert table.read_bytes() == content
