"""The example with every option on, and the files that it names."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from certificates import Authority

from canaryproxy.config.load import example_text


def all_options_on() -> str:
    """The example's text; TLS to the servers of v1, for its options are refused where no server has it."""
    text = re.sub(r"(?m)^( *)#(?=\S)|^( +)#(?=  )", r"\1\2", example_text())
    return text.replace("http://127.0.0.1:8001", "https://127.0.0.1:8001")


def write_files(folder: Path) -> None:
    """Make every file that the example names, in `folder`."""
    shown = yaml.safe_load(all_options_on())
    authority = Authority(folder)
    for section in (shown["tls"], shown["tls"]["sni"][0], shown["pools"]["v1"]["tls"]):
        issued = authority.issue("example.com")
        for file, name in ((issued.certificate, section["certificate"]), (issued.key, section["key"])):
            Path(file).rename(folder / name)
    (folder / shown["routes"]["shop"]["overrides"]["users_file"]).write_text("anna\n")
    for name in (shown["tls"]["client_ca"], shown["pools"]["v1"]["tls"]["ca"]):
        (folder / name).write_bytes(Path(authority.ca).read_bytes())
