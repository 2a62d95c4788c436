"""etc/examples: the git hook in a real bare repository with real pushes, and the one-off script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from harness import BIN, Site

EXAMPLES = Path(__file__).parents[2] / "etc" / "examples"


class Repository:
    """A bare repository with the hook, and a clone to push from."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.bare, self.work = site.root / "nethack.git", site.root / "work"
        self.environ = {
            **site.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Zoë Ö",
            "GIT_AUTHOR_EMAIL": "zoe@example.org",
            "GIT_COMMITTER_NAME": "Zoë Ö",
            "GIT_COMMITTER_EMAIL": "zoe@example.org",
            "GL_USER": "pusher",
        }
        self.git("init", "-q", "--bare", "-b", "main", str(self.bare), at=site.root)
        self.git("init", "-q", "-b", "main", str(self.work), at=site.root)
        self.git("remote", "add", "origin", str(self.bare))
        # The site's config is in the directory of the account, where a hook finds it.
        shutil.copytree(site.root / "fedmsg.d", site.root / ".fedmsg.d")
        shutil.copy(EXAMPLES / "post-receive", self.bare / "hooks" / "post-receive")

    def git(self, *arguments: str, at: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments],
            cwd=at or self.work,
            env=self.environ,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        )

    def commit(self, message: str, **files: str) -> str:
        for name, content in files.items():
            (self.work / name).write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").stdout.strip()

    def push(self, *refs: str) -> str:
        """Push; returns what git showed of it."""
        return self.git("push", "origin", *(refs or ("main",))).stderr


@pytest.fixture
def repository(site: Site) -> Repository:
    return Repository(site)


LINKS = ("fedmsg_relay", "fedmsg")
"""What there is to publish with."""


def have_only(link: str, environ: dict[str, str], root: Path) -> None:
    """Have scripts that are run with ``environ`` find fedmsg alone, if that is the link."""
    if link == "fedmsg":
        (root / "absent").mkdir()
        (root / "absent" / "fedmsg_relay.py").write_text("raise ImportError\n")
        environ["PYTHONPATH"] = str(root / "absent")


@pytest.fixture(params=LINKS)
def link(request: pytest.FixtureRequest, repository: Repository) -> str:
    have_only(request.param, repository.environ, repository.site.root)
    return str(request.param)


def commits(received: list[list[bytes]]) -> list[dict[str, Any]]:
    return [json.loads(body)["msg"]["commit"] for _, body in received]


class TestPostReceive:
    @pytest.mark.usefixtures("link")
    def test_each_commit_is_a_message(self, site: Site, repository: Repository) -> None:
        site.relay()
        subscriber = site.subscriber()
        first = repository.commit("One", a="1\n2\n", b="3\n")
        second = repository.commit("Zwei\n\nMit Körper.\n", a="1\n")
        assert "warning" not in repository.push()
        assert [topic for topic, _ in subscriber.wait(2)] == [
            b"org.fedoraproject.dev.git.receive"
        ] * 2
        one, two = commits(subscriber.received)
        assert one == {
            "name": "Zoë Ö",
            "email": "zoe@example.org",
            "username": "zoe",
            "summary": "One",
            "message": "One\n",
            "stats": {
                "files": {
                    "a": {"additions": 2, "deletions": 0, "lines": 2},
                    "b": {"additions": 1, "deletions": 0, "lines": 1},
                },
                "total": {"additions": 3, "deletions": 0, "lines": 3, "files": 2},
            },
            "rev": first,
            "path": str(repository.bare),
            "repo": "nethack",
            "branch": "main",
            "agent": "pusher",
            "seen": False,
        }
        assert (two["rev"], two["summary"], two["message"]) == (
            second,
            "Zwei",
            "Zwei\n\nMit Körper.\n",
        )
        assert two["stats"]["total"] == {"additions": 0, "deletions": 1, "lines": 1, "files": 1}

    def test_branches_tags_and_merges(self, site: Site, repository: Repository) -> None:
        site.relay()
        subscriber = site.subscriber()
        base = repository.commit("base", a="1\n")
        repository.push()
        repository.git("checkout", "-q", "-b", "topic/new")
        side = repository.commit("side", b="2\n")
        repository.push("topic/new")
        repository.git("checkout", "-q", "main")
        main = repository.commit("main", c="3\n")
        repository.git("merge", "-q", "--no-ff", "-m", "merge", "topic/new")
        merge = repository.git("rev-parse", "HEAD").stdout.strip()
        repository.git("tag", "-a", "-m", "tag", "v1")
        repository.push("main", "v1")
        repository.git("branch", "copy")
        repository.push("copy", ":topic/new")  # nothing new, and a deletion
        last = repository.commit("last", d="4\n")
        repository.push()
        got = [(c["branch"], c["rev"], c["seen"]) for c in commits(subscriber.wait(6))]
        assert got[:2] == [("main", base, False), ("topic/new", side, False)]
        assert sorted(got[2:4]) == sorted([("main", side, True), ("main", main, False)])
        assert got[4:] == [("main", merge, False), ("main", last, False)]
        stats = commits(subscriber.received)[4]["stats"]
        assert list(stats["files"]) == ["b"], "a merge changes what it brings to the branch"

    def test_odd_paths_and_binary_files(self, site: Site, repository: Repository) -> None:
        site.relay()
        subscriber = site.subscriber()
        (repository.work / "binary").write_bytes(bytes(range(256)))
        repository.commit("odd", **{'a\tb"\n ö': "1\n"})
        repository.push()
        (commit,) = commits(subscriber.wait(1))
        assert commit["stats"]["files"] == {
            'a\tb"\n ö': {"additions": 1, "deletions": 0, "lines": 1},
            "binary": {"additions": 0, "deletions": 0, "lines": 0},
        }

    def test_a_branch_whose_name_is_no_utf8(self, site: Site, repository: Repository) -> None:
        site.relay()
        subscriber = site.subscriber()
        repository.commit("one", a="1\n")
        repository.git("checkout", "-q", "-b", os.fsdecode(b"odd\xff"))
        assert "warning" not in repository.push("HEAD")
        (commit,) = commits(subscriber.wait(1))
        assert commit["branch"] == "odd\N{REPLACEMENT CHARACTER}"

    def test_500_commits_in_one_push(self, site: Site, repository: Repository) -> None:
        site.relay()
        subscriber = site.subscriber()
        stream = "".join(
            f"commit refs/heads/main\ncommitter C <c@example.org> {number} +0000\n"
            f"data 3\n{number:03}M 644 inline file\ndata 4\n{number:03}\n\n"
            for number in range(500)
        )
        subprocess.run(
            ["git", "fast-import", "--quiet"],
            cwd=repository.work,
            input=stream.encode(),
            check=True,
        )
        assert "warning" not in repository.push()
        got = [commit["summary"] for commit in commits(subscriber.wait(500))]
        assert got == [f"{number:03}" for number in range(500)]

    def test_a_dead_relay_is_a_warning(self, link: str, repository: Repository) -> None:
        repository.commit("lost", a="1\n")
        shown = repository.push()
        inbound = repository.site.inbound
        says = {
            "fedmsg": f"no relay answers at {inbound}",
            "fedmsg_relay": f"message not sent: no relay at {inbound} after 0.5 s (Conn",
        }
        assert f"warning: fedmsg: {says[link]}" in shown
        assert "1 commits not published" in shown
        assert repository.git("ls-remote", "origin", "main").stdout

    def test_so_is_one_that_is_stopped(self, link: str, site: Site, repository: Repository) -> None:
        relay = site.relay()
        relay.kill(signal.SIGSTOP)
        repository.commit("lost", a="1\n")
        start = time.monotonic()
        says = {
            "fedmsg": "no relay answers",
            "fedmsg_relay": "message not sent: no relay at",
        }
        assert f"warning: fedmsg: {says[link]}" in repository.push()
        assert time.monotonic() - start < 20, "the limit in the hook is 5 s"
        relay.kill(signal.SIGCONT)

    def test_so_is_a_broken_configuration(self, site: Site, repository: Repository) -> None:
        (site.root / ".fedmsg.d" / "site.py").write_text("config = {")
        repository.commit("lost", a="1\n")
        assert "warning: fedmsg: " in repository.push()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("where", ["arguments", "stdin"])
def test_pkgdb2branch(site: Site, where: str, link: str) -> None:
    site.relay()
    subscriber = site.subscriber()
    have_only(link, site.environ, site.root)
    packages = ["nethack", "cowsay"]
    script = [str(EXAMPLES / "pkgdb2branch.py"), "f40", *(packages if where == "arguments" else [])]
    done = site.run("python", *script, input="nethack\ncowsay\n" if where == "stdin" else "")
    assert done.returncode == 0
    received = subscriber.wait(2)
    assert [topic for topic, _ in received] == [b"org.fedoraproject.dev.pkgdb2.branch"] * 2
    assert [json.loads(body)["msg"] for _, body in received] == [
        {"package": package, "branch": "f40"} for package in packages
    ]


def test_pkgdb2branch_without_a_relay(site: Site) -> None:
    done = site.run("python", EXAMPLES / "pkgdb2branch.py", "f40", "nethack")
    assert done.returncode != 0
    assert "RelayUnavailable: message not sent: no relay at" in done.stderr
    assert "branched" not in done.stdout
