"""``bursar export focus``: a file that is whole or not there, and beside it what it was made from."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

from bursar.admin_client import said_by
from bursar.local_http import Answer, call, download

PATH = "/api/exports/focus"
MANIFEST_SUFFIX = ".manifest.json"


class ExportRefused(Exception):
    """There is no file; the message is one sentence."""


def start_beside(path: Path) -> Path:
    """A file of its own in the folder, where the export grows; before anything is asked for. Raises ExportRefused."""
    try:
        _check_writable(path)
        handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=".bursar-focus-")
    except OSError as error:
        raise _not_written(path, error) from None
    os.close(handle)
    return Path(temporary)


def _not_written(path: Path, error: OSError) -> ExportRefused:
    return ExportRefused(f"{path} cannot be written: {error.strerror or error}.")


def _check_writable(path: Path) -> None:
    for each in (path, path.with_name(path.name + MANIFEST_SUFFIX)):
        if each.is_dir():
            raise ExportRefused(f"{each} is a folder; name a file in it.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ExportRefused(f"The folder {folder} does not exist.")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ExportRefused(f"{path} cannot be written: permission denied.")


def export(url: str, token: str, *, month: str, output: str, version: str, path: Path) -> dict[str, Any]:
    """Write the file and its manifest; returns the manifest. Raises ExportRefused: then neither was changed."""
    temporary = start_beside(path)
    try:
        return _export(url, token, month, output, version, path, temporary)
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def _export(url: str, token: str, month: str, output: str, version: str, path: Path, temporary: Path) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    query = urlencode({"month": month})
    before = _manifest(url, query, headers)
    with open(temporary, "wb") as file:
        _download(url, f"{PATH}?{query}&{urlencode({'format': output, 'version': version})}", headers, file)
        file.flush()
        os.fsync(file.fileno())
    after = _manifest(url, query, headers)
    if {**before, "made_at": ""} != {**after, "made_at": ""}:
        raise ExportRefused(f"Requests of {month} arrived during the export, so its sum is in doubt: run it again.")
    if output == "csv":
        _check_sum(temporary, before)
    made = {
        **before,
        "specification": f"FOCUS {version}",
        "file": path.name,
        "bytes": os.stat(temporary).st_size,
        "sha256": _sha256(temporary),
    }
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    path.with_name(path.name + MANIFEST_SUFFIX).write_text(json.dumps(made, indent=2) + "\n")
    return made


def _manifest(url: str, query: str, headers: dict[str, str]) -> dict[str, Any]:
    answer = _asked(url, lambda: call(url, "GET", f"{PATH}/manifest?{query}", headers=headers, timeout_s=120.0))
    found: dict[str, Any] = answer.json()
    return found


def _download(url: str, path: str, headers: dict[str, str], file: IO[bytes]) -> None:
    _asked(url, lambda: download(url, path, file, headers=headers))


def _asked(url: str, ask: Callable[[], Answer]) -> Answer:
    try:
        answer = ask()
    except OSError as error:
        raise ExportRefused(f"Bursar at {url} did not answer to the end ({error}); nothing was written.") from None
    if answer.status >= 300:
        raise ExportRefused(said_by(answer))
    return answer


def _check_sum(path: Path, manifest: dict[str, Any]) -> None:
    """The file's own sum against the ledger's. Raises ExportRefused."""
    total = Decimal(0)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            total += Decimal(row["BilledCost"])
    if total != Decimal(manifest["billed_usd"]):
        raise ExportRefused(
            f"The rows sum to ${total}, the ledger to ${manifest['billed_usd']}: nothing was written; run it again."
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
