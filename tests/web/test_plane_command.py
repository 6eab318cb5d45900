"""python -m tools.website.plane."""

import pytest

from tools.website.plane import main


def test_help_is_printed_and_no_file_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "plane.html" in capsys.readouterr().out and not list(tmp_path.iterdir())
    main(["plane.html"])
    assert "<canvas" in (tmp_path / "plane.html").read_text(encoding="utf-8")
