"""Every recipe's stages are what they were, so that what users have computed stays cached."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from golden.compositions import FILE, PLANS, changes, composed, compositions, digest, planned
from golden.stored import Stored

golden = json.loads(FILE.read_text())


def test_every_recipe_is_known() -> None:
    gone = golden["compositions"].keys() - compositions().keys()
    assert not gone, f"these compositions are there no longer: {sorted(gone)}"


@pytest.mark.parametrize("name", golden["compositions"])
def test_its_stages_have_the_identity_that_they_had(name: str) -> None:
    found, expected = composed(name), golden["compositions"][name]
    assert list(found) == list(expected), f"{name}: other stages"
    wrong = []
    for stage, (kept, print_) in expected.items():
        identity = found[stage]
        now = identity.pop("fingerprint", "")
        old = golden["identities"][kept]
        wrong += [f"{name}, {stage}: {change}" for change in changes(old, identity)]
        if digest(identity) == kept and now[:16] != print_:
            wrong.append(f"{name}, {stage}: another fingerprint of the same identity, or above")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", golden["plans"])
def test_a_plan_has_the_fingerprints_that_it_had(
    name: str, tmp_path: Path, migrated_database: Path
) -> None:
    (tmp_path / "mlruns").mkdir()
    shutil.copy(migrated_database, tmp_path / "mlruns/mlflow.db")
    assert name in PLANS
    found = planned(name, Stored(tmp_path, [], teacher="offline"))
    wrong = {stage for stage in found if found[stage] != golden["plans"][name].get(stage)}
    assert not wrong, f"{name}: other fingerprints of {sorted(wrong)}"
    assert list(found) == list(golden["plans"][name])
