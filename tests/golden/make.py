"""Write the golden files anew from the code as it is: `python tests/golden/make.py [PART...]`.

Parts: store, compositions, graphs, compare, help, surface; all of them without a name. What they
write is what the tests of this folder expect, so make it only where a change of behavior is
meant, and read the difference. The store takes a minute or two, the others seconds; `surface`
asks the store, so it is made after it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401 - sets the environment before torch is imported


def store() -> None:
    from golden.making import make_store

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "store"
        made.mkdir()
        make_store(made)


def compositions() -> None:
    from golden.compositions import PLANS, planned, write
    from golden.stored import Stored

    plans = {}
    for name in PLANS:
        with tempfile.TemporaryDirectory() as folder:
            plans[name] = planned(name, Stored(Path(folder), [], teacher="offline"))
    write(plans)


def graphs() -> None:
    import toys
    from golden.graphs import write

    # The makers are pytest's fixtures; what is inside them needs no pytest.
    build_hf = toys.build_hf.__wrapped__()  # type: ignore[attr-defined]
    build = toys.build.__wrapped__(build_hf)  # type: ignore[attr-defined]
    write(build, toys.make_batch.__wrapped__())  # type: ignore[attr-defined]


def compare() -> None:
    from golden.compared import write

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))


def surface() -> None:
    from golden.stored import unpack
    from golden.surface import write

    with tempfile.TemporaryDirectory() as folder:
        write(unpack(Path(folder)), Path(folder))


def help_() -> None:
    from golden.helped import write

    write()


PARTS = {
    "store": store,
    "compositions": compositions,
    "graphs": graphs,
    "compare": compare,
    "help": help_,
    "surface": surface,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
