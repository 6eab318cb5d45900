"""Paths that a user names, and the flush of a folder."""

import os
from pathlib import Path

from ddpm_helpers.files import flush_folder, user_path


def test_a_users_path_is_absolute_and_knows_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    here = Path(os.getcwd())
    assert user_path("~/runs/a") == tmp_path / "home" / "runs" / "a"
    assert user_path("runs/../album") == user_path(Path("album")) == here / "album"
    assert user_path(here / "v1.5") == here / "v1.5"


def test_a_drive_that_cannot_flush_a_folder_is_no_error(tmp_path, monkeypatch):
    def refused(handle):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refused)
    flush_folder(tmp_path)
    flush_folder(tmp_path / "missing")
