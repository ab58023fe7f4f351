"""Certificates of a private authority, for servers and clients that speak TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificates(folder: Path, *names: str) -> None:
    """``ca.pem``, and for each name ``<name>.key`` and ``<name>.crt``, signed by it for localhost and 127.0.0.1."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new_key = ("-newkey", "rsa:2048", "-nodes")
    authority = ("-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    openssl("req", "-x509", *new_key, *authority)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed_by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    for name in names:
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed_by, "-out", f"{name}.crt")


def make_broker_certificates(folder: Path) -> None:
    """Those of ``broker``, and in ``broker.pem`` its key and chain as Kafka reads them."""
    make_certificates(folder, "broker")
    parts = [(folder / name).read_text() for name in ("broker.key", "broker.crt", "ca.pem")]
    (folder / "broker.pem").write_text("".join(parts))
