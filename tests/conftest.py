"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the public data sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("SEGKIT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set SEGKIT_DATA to the folder that holds it")
    return folder
