"""Certificates for tests: an authority of their own, in files, as a configuration names them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import trustme


class Issued(NamedTuple):
    """The files of one certificate, with its chain, and of its key."""

    certificate: str
    key: str


class Authority:
    """A certificate authority. Its own certificate is in the file `ca`; what it issues serves servers and clients alike."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.ca = str(directory / f"{name}.pem")
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str, file: str = "server") -> Issued:
        """A new certificate for these names or addresses, in `FILE.pem` and `FILE.key`, which are replaced if they were there."""
        issued = self._authority.issue_cert(*names)
        paths = Issued(str(self._directory / f"{file}.pem"), str(self._directory / f"{file}.key"))
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        for path, content in zip(paths, (chain, issued.private_key_pem.bytes()), strict=True):
            fresh = Path(f"{path}.new")
            fresh.write_bytes(content)
            fresh.replace(path)
        return paths
