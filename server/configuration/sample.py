"""A settings file with every setting, written from the types. Nothing is in force until its # is removed."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

from server.configuration.schema import SCHEMA_FILE
from server.configuration.tree import ROWS, SectionOfSettings, Setting, sections, toml, toml_key
from server.settings import Settings

WIDTH = 100
_FOLDER = "/var/lib/roundhouse"
"""An example in place of the default, which differs from machine to machine."""
_HEAD = f"""\
#:schema ./{SCHEMA_FILE}
# Settings of Roundhouse: every one with its default, or an example where it has none. Remove the # of those to
# change. The environment wins over this file, and flags of serve over both: port in [server] is
# ROUNDHOUSE_SERVER__PORT. Check this file with: roundhouse config check
"""
_KEYS = """\
# Keys are never in this file. Set ROUNDHOUSE_API_KEYS, ROUNDHOUSE_ADMIN_KEYS and ROUNDHOUSE_METRICS_KEYS, name
# other variables below, or make keys with: roundhouse keys create NAME
"""
_ROWS = """\
# Rows add models and the servers that they are at, or change what is built in: a row with the id of a built-in one
# changes the fields that it names.

#[[endpoint]]
#id = "lan"
#base_url = "http://192.168.1.20:8000/v1"

#[[model]]
#id = "lan/assistant"
#capabilities = ["chat", "tools"]
#source = { kind = "upstream", endpoint = "lan", model = "assistant" }
"""
_MARKUP = re.compile(r"``|:(?:func|class|mod|data|meth|attr):`[~.]?|`")


def sample() -> str:
    """The file as text."""
    return "\n".join([_HEAD, _KEYS, *map(_section, sections()), _ROWS])


def _section(section: SectionOfSettings) -> str:
    shown = [each for each in section.settings if each.in_file and each.name not in ROWS]
    words = () if section.type is Settings else _comment(inspect.getdoc(section.type) or "")
    head = [f"[{section.name}]"] if section.name else []
    return "\n".join([*words, *head, *(line for each in shown for line in _setting(each))]) + "\n"


def _setting(setting: Setting) -> Iterator[str]:
    said = setting.field.description or ""
    yield from _comment(f"{said[:1].upper()}{said[1:]}." if said else "")
    example = _FOLDER if setting.name == "data_dir" else setting.example
    yield f"#{toml_key(setting.key)} = {toml(example)}".rstrip()


def _comment(text: str) -> Iterator[str]:
    """A text as comments; of a docstring without its markup."""
    for paragraph in _MARKUP.sub("", text).split("\n\n"):
        for line in textwrap.wrap(" ".join(paragraph.split()), WIDTH):
            yield f"# {line}"
