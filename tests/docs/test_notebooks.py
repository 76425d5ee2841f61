"""The notebooks run, in the order of their page, in one folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
ORDER = ["compress.ipynb", "front.ipynb", "budget.ipynb"]


@pytest.mark.slow
def test_the_notebooks_run(tmp_path: Path) -> None:
    own = Path(sys.executable).parent
    places = {
        "PATH": f"{own}:{os.environ['PATH']}",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
    }
    for name in ORDER:
        shutil.copy(FOLDER / name, tmp_path)
        done = subprocess.run(
            [sys.executable, "-m", "jupyter", "execute", "--timeout=600", str(tmp_path / name)],
            cwd=tmp_path, env=os.environ | places, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}\n{done.stderr[-6000:]}"
    assert (tmp_path / "labeled.csv").is_file()


def test_the_page_lists_all_notebooks() -> None:
    page = FOLDER.with_suffix(".md").read_text(encoding="utf-8")
    assert sorted(one.name for one in FOLDER.glob("*.ipynb")) == sorted(ORDER)
    assert [page.index(name) for name in ORDER] == sorted(page.index(name) for name in ORDER)
