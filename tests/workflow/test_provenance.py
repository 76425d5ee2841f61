"""What is asked of git, and that nothing which a repository names is run for it."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quala.redact import recorded
from quala.workflow import provenance
from quala.workflow.provenance import Code, Record, code_state


class Repository:
    """A git repository with one committed file, and a program that leaves a trace where it ran."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trace, self.program = folder, folder / "../ran", folder / "../evil"
        folder.mkdir()
        self.program.write_text(f'#!/bin/sh\necho "$0 $*" >> "{self.trace}"\ncat\n')
        self.program.chmod(self.program.stat().st_mode | stat.S_IEXEC)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.email", "a@b.c")
        self.git("config", "user.name", "a")
        self.file = folder / "run.py"
        self.file.write_text("one = 1\n")
        self.commit()

    def git(self, *words: str) -> str:
        command = ["git", "-C", str(self.folder), *words]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        return subprocess.run(command, check=True, capture_output=True, env=kept, text=True).stdout

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")

    @property
    def evil(self) -> str:
        return str(self.program.resolve())


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Repository(tmp_path / "work")


def test_a_clean_repository_is_clean(repository: Repository) -> None:
    found = code_state(repository.file)
    assert found == Code(repository.git("rev-parse", "HEAD").strip())


def test_changes_are_hashed_and_kept(repository: Repository) -> None:
    repository.file.write_text("two = 2\n")
    found = code_state(repository.file)
    assert found.dirty
    assert "+two = 2" in found.text
    assert len(found.diff) == 64
    repository.file.write_text("three = 3\n")
    assert code_state(repository.file).diff != found.diff


def test_new_files_count_and_are_never_kept(repository: Repository) -> None:
    (repository.folder / "new.py").write_text("key = 'hunter22'\n")
    assert code_state(repository.file) == Code(code_state(repository.file).commit, dirty=True)


def test_ignored_files_do_not_count(repository: Repository) -> None:
    (repository.folder / ".gitignore").write_text("*.log\n")
    repository.commit()
    (repository.folder / ".git/info/exclude").write_text("*.tmp\n")
    for name in ("a.log", "a.tmp"):
        (repository.folder / name).touch()
    assert code_state(repository.file).dirty is False


def test_a_folder_inside_and_a_linked_work_tree_are_found(
    repository: Repository, tmp_path: Path
) -> None:
    inside = repository.folder / "a/b"
    inside.mkdir(parents=True)
    (inside / "c.py").write_text("c\n")
    repository.commit()
    repository.git("worktree", "add", "-q", str(tmp_path / "linked"))
    commit = repository.git("rev-parse", "HEAD").strip()
    assert code_state(inside / "c.py") == Code(commit)
    assert code_state(tmp_path / "linked/a/b/c.py") == Code(commit)
    (tmp_path / "linked/run.py").write_text("changed\n")
    assert code_state(tmp_path / "linked/a/b/c.py").dirty


def test_without_a_repository_nothing_is_known(tmp_path: Path) -> None:
    assert code_state(tmp_path / "x.py") == Code()


def test_a_repository_without_a_commit_is_none(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "new")], check=True)
    assert code_state(tmp_path / "new/x.py") == Code()


def _config(*names: str) -> Callable[[Repository], None]:
    def change(repository: Repository) -> None:
        for name in names:
            repository.git("config", name, repository.evil)

    return change


def _filter(repository: Repository) -> None:
    for kind in ("clean", "smudge", "process"):
        repository.git("config", f"filter.x.{kind}", repository.evil)
    repository.git("config", "filter.x.required", "true")
    (repository.folder / ".gitattributes").write_text("* filter=x diff=x merge=x\n")


def _driver(repository: Repository) -> None:
    for kind in ("diff.x.command", "diff.x.textconv", "merge.x.driver"):
        repository.git("config", kind, repository.evil)
    (repository.folder / ".git/info").mkdir(exist_ok=True)
    (repository.folder / ".git/info/attributes").write_text("* diff=x filter=x merge=x\n")


def _own_attributes(repository: Repository) -> None:
    (repository.folder / "../attributes").write_text("* filter=x diff=x\n")
    repository.git("config", "core.attributesFile", str(repository.folder / "../attributes"))
    repository.git("config", "filter.x.clean", repository.evil)


def _hooks(repository: Repository) -> None:
    hooks = repository.folder / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-index-change", "fsmonitor-watchman", "pre-auto-gc", "post-checkout"):
        shutil.copy(repository.program, hooks / name)
    repository.git("config", "core.hooksPath", str(hooks))


def _include(repository: Repository) -> None:
    other = repository.folder / "../other.ini"
    other.write_text(f"[core]\n\tfsmonitor = {repository.evil}\n\tpager = {repository.evil}\n")
    repository.git("config", f"includeIf.gitdir:{repository.folder}/.path", str(other))
    repository.git("config", "include.path", str(other))


def _aliases(repository: Repository) -> None:
    for name in ("diff", "status", "rev-parse"):
        repository.git("config", f"alias.{name}", f"!{repository.evil}")


def _submodule(repository: Repository) -> None:
    inner = Repository(repository.folder / "inner")
    repository.git("add", "inner")
    repository.git("commit", "-q", "-m", "inner")
    inner.git("config", "core.fsmonitor", repository.evil)
    inner.git("config", "filter.x.clean", repository.evil)
    (inner.folder / ".gitattributes").write_text("* filter=x\n")
    inner.file.write_text("changed\n")


def _promisor(repository: Repository) -> None:
    repository.git("config", "remote.origin.url", f"ext::{repository.evil}")
    repository.git("config", "remote.origin.promisor", "true")
    repository.git("config", "protocol.ext.allow", "always")
    repository.git("config", "core.repositoryformatversion", "1")
    repository.git("config", "extensions.partialClone", "origin")
    blob = repository.git("rev-parse", "HEAD:run.py").strip()
    (repository.folder / ".git/objects" / blob[:2] / blob[2:]).unlink()


def _bare(repository: Repository) -> None:
    bare = repository.folder / "bare"
    subprocess.run(["git", "init", "-q", "--bare", str(bare)], check=True)
    for name in ("core.fsmonitor", "diff.external", "core.pager"):
        subprocess.run(["git", "-C", str(bare), "config", name, repository.evil], check=True)


HOSTILE = {
    "fsmonitor": _config("core.fsmonitor"),
    "diff": _config("diff.external", "core.pager", "pager.diff", "pager.status", "core.editor"),
    "ssh": _config("core.sshCommand", "core.gitProxy", "core.askPass", "credential.helper"),
    "gpg": _config("gpg.program", "gpg.ssh.program", "core.alternateRefsCommand"),
    "filter": _filter,
    "driver": _driver,
    "attributes": _own_attributes,
    "hooks": _hooks,
    "include": _include,
    "aliases": _aliases,
    "submodule": _submodule,
    "promisor": _promisor,
    "bare": _bare,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_nothing_that_a_repository_names_is_run(
    repository: Repository, change: Callable[[Repository], None]
) -> None:
    change(repository)
    repository.trace.unlink(missing_ok=True)  # setting it up may run it
    repository.file.write_text("one = 2\n")
    assert code_state(repository.file).commit is not None
    assert not repository.trace.exists(), repository.trace.read_text()


def test_an_embedded_bare_repository_is_not_read(repository: Repository) -> None:
    _bare(repository)
    assert code_state(repository.folder / "bare/x.py").commit is not None  # of the outer one
    shutil.rmtree(repository.folder / ".git")
    assert code_state(repository.folder / "bare/x.py") == Code()
    assert not repository.trace.exists()


def test_variables_of_git_are_not_followed(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Repository(tmp_path / "other")
    repository.trace.unlink(missing_ok=True)
    variables = {
        "GIT_DIR": f"{other.folder}/.git", "GIT_WORK_TREE": str(other.folder),
        "GIT_EXTERNAL_DIFF": repository.evil, "GIT_PAGER": repository.evil,
        "GIT_SSH_COMMAND": repository.evil, "GIT_ASKPASS": repository.evil,
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor",
        "GIT_CONFIG_VALUE_0": repository.evil, "GIT_TRACE2": f"{tmp_path}/trace2",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    other.file.write_text("changed\n")
    commit = repository.git("rev-parse", "HEAD").strip()
    assert code_state(repository.file) == Code(commit)
    assert not repository.trace.exists()
    assert not (tmp_path / "trace2").exists()


def test_settings_of_the_user_are_not_run(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text(f'[filter "lfs"]\n\tclean = {repository.evil}\n')
    (repository.folder / ".gitattributes").write_text("* filter=lfs\n")
    repository.file.write_text("one = 2\n")
    assert code_state(repository.file).dirty
    assert not repository.trace.exists()


def test_a_work_tree_elsewhere_is_not_read(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/run.py").write_text("secret\n")
    repository.git("config", "core.worktree", str(tmp_path / "elsewhere"))
    assert "secret" not in code_state(repository.file).text


def test_an_index_is_not_written(repository: Repository) -> None:
    index = repository.folder / ".git/index"
    os.utime(repository.file, (1, 1))
    before = index.read_bytes()
    code_state(repository.file)
    assert index.read_bytes() == before


def test_a_large_diff_is_hashed_and_cut(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "LARGEST_DIFF", 500)
    monkeypatch.setattr(provenance._Git.read, "__kwdefaults__", {"most": 500, "hashed": None})
    repository.file.write_text("x = 0\n" * 100_000 + "a\n")
    first = code_state(repository.file)
    repository.file.write_text("x = 0\n" * 100_000 + "b\n")
    assert len(first.text) == 500
    assert code_state(repository.file).diff != first.diff


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_slow_git_leaves_the_state_unknown(
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
) -> None:
    real = shutil.which("git")
    slow = tmp_path / "bin/git"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *rev-parse*) exec {real} "$@";; esac\nexec sleep 60\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "SECONDS_FOR_GIT", seconds)
    with caplog.at_level(logging.WARNING):
        found = code_state(repository.file)
    if seconds:
        assert found.dirty is None
        assert "is not known" in caplog.text
        record = Record("", [], 0, "-", found)
        assert record.tags["quala.dirty"] == "unknown"
        assert "changes unknown" in record.summary("toy", "id")["commit"]
    else:
        assert found == Code()


def test_without_git_nothing_is_known(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert code_state(repository.file) == Code()


@pytest.mark.parametrize("stored", [True, False])
def test_the_diff_is_stored_on_an_option_only(*, stored: bool) -> None:
    code = Code("c", dirty=True, diff="hash", text="+key = 'hunter22'\n")
    record = Record("", [], 0, "-", code, diff=stored)
    assert record.tags["mlflow.quala.diff"] == "hash"
    assert ("hunter22" in str(recorded(record.texts()))) is stored


def test_what_others_read_names_no_folders_host_or_user() -> None:
    words = ["data.path=/home/alice/d/train.json", "+x=[~/a/b, '/srv/al ice/c']",
             "tracking.uri=sqlite:////home/alice/m.db", "model.teacher=org/name"]  # fmt: skip
    shown = Record("", words, 0, "-", Code()).summary("toy", "id")
    expected = "data.path=.../train.json '+x=[.../b, '\"'\"'.../c'\"'\"']' tracking.uri=.../m.db"
    assert shown["command"] == f"quala run toy {expected} model.teacher=org/name"
    assert os.uname().nodename not in str(shown).split()
