"""Progress: a bar on terminals, which test_make_dataset.py looks at, and lines in files."""

from dog_breeds import console


def test_progress_in_a_file_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_SECONDS", 0)
    assert list(console.with_progress("abc", "crops", 3, "photos")) == ["a", "b", "c"]
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("crops: 0 of 3") and last.startswith("crops: 3 of 3, ")
    with console.progress("images.tar", None) as show:
        show(2_500_000)
    assert capsys.readouterr().out.splitlines()[-1].startswith("images.tar: 2.50M, ")
    monkeypatch.undo()
    with console.progress("images.tar", 10_000_000, 5_000_000) as show:
        show(10_000_000)
    assert capsys.readouterr().out == "", "what takes less than half a minute is not mentioned"
