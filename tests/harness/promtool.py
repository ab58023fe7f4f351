"""``promtool``, Prometheus' own checker: the one on the PATH, else Debian's, fetched once into .cache/promtool."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

from tests.harness.require import CHECKOUT, missing

CACHE = CHECKOUT / ".cache" / "promtool"
HOW = "install Prometheus' tools (Debian: the package prometheus)"
FETCH_S = 120
"""Longest download."""


def promtool() -> Path:
    """Its path; skips the test where it cannot be had (fails when the environment has ``CI=true``)."""
    found = shutil.which("promtool")
    if found is not None:
        return Path(found)
    kept = CACHE / "promtool"
    if not kept.exists():
        _fetch(kept)
    return kept


def _fetch(kept: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        missing("promtool", HOW)
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test workers may come here at once
        if kept.exists():
            return
        unpacked = CACHE / "unpacked"
        try:
            subprocess.run(
                ["apt-get", "download", "-qq", "prometheus"],
                cwd=CACHE,
                check=True,
                capture_output=True,
                timeout=FETCH_S,
            )
            (package,) = CACHE.glob("prometheus_*.deb")
            subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True, capture_output=True, timeout=FETCH_S)
            (unpacked / "usr" / "bin" / "promtool").rename(kept)
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            missing("promtool", f"{HOW}: fetching it failed ({type(error).__name__})")
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
            for package in CACHE.glob("prometheus_*.deb"):
                package.unlink()


def check(arguments: list[str], *, text: str | None = None) -> None:
    """Run it; AssertionError with what it says where it finds anything, be it a hint only."""
    ran = subprocess.run([promtool(), *arguments], input=text, capture_output=True, text=True, timeout=60, check=False)
    said = f"{ran.stdout}{ran.stderr}"
    assert ran.returncode == 0, said
    if arguments[:2] == ["check", "metrics"]:
        assert not said, said
