"""Progress in files, and what a script says about a missing package.

test_make_dataset.py tests the progress bar of a terminal.
"""

import pytest
from conftest import run

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


@pytest.mark.parametrize("script", ["exploratory_data_analysis.py", "training.py"])
def test_a_script_without_matplotlib_names_the_environment_to_use(script, tmp_path):
    # A file of that name comes before the installed package, and fails as a missing package does
    (tmp_path / "matplotlib.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'matplotlib'\", name='matplotlib')"
    )
    result = run(script, "--help", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == (
        f"{script}: the package matplotlib is not installed in this Python environment; "
        "run make install, then source .venv/bin/activate\n"
    )


def test_a_missing_package_in_the_middle_of_a_run_is_one_line_too(monkeypatch):
    monkeypatch.setattr("sys.argv", ["training.py"])
    with pytest.raises(SystemExit) as stopped, console.one_line_errors():
        raise ModuleNotFoundError("No module", name="tensorflow.keras")
    assert stopped.value.code.startswith("training.py: the package tensorflow is not installed")


def test_a_missing_package_is_raised_where_a_script_is_imported():
    with pytest.raises(ModuleNotFoundError), console.one_line_import_errors("training"):
        raise ModuleNotFoundError("No module", name="matplotlib")
