"""Take the screenshots of docs/guide/search-study.md from finished searches.

python docs/optuna/screenshot.py RUN

RUN is a run id in mlruns of this folder, or the output folder of a search. Needs optuna-dashboard
(pip install optuna-dashboard) and Chromium. Writes docs/optuna/*.png.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

PAGES = {
    "front": "dashboard/studies/0",
    "layers": "dashboard/studies/0/analytics",
}
SECONDS = 120


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the dashboard answers; raise RuntimeError where it does not."""
    for _ in range(SECONDS):
        if server.poll() is not None:
            raise RuntimeError("`quala ui` ended, see above.")
        try:
            urlopen(f"{address}/api/studies").close()
            return
        except URLError:
            time.sleep(1)
    raise RuntimeError(f"`quala ui` does not answer within {SECONDS} s.")


def main() -> None:
    """Serve the study, open each page in a browser without a window, and end both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))))
    port = free_port()
    words = ["from quala.cli import main; main()", "ui", "--study", arguments.run]
    server = subprocess.Popen([sys.executable, "-c", *words, "--port", str(port)])
    try:
        wait_for(f"http://127.0.0.1:{port}", server)
        with tempfile.TemporaryDirectory() as profile:
            for name, page in PAGES.items():
                options = [
                    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                    "--virtual-time-budget=15000", "--window-size=1400,1000",
                    f"--user-data-dir={profile}", f"--screenshot={arguments.out / name}.png",
                ]  # fmt: skip
                address = f"http://127.0.0.1:{port}/{page}"
                subprocess.run([browser, *options, address], check=True, timeout=SECONDS)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
