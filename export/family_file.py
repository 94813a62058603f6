"""A family of one's own, as a TOML file: the same rows as the published ones, checked the same way."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

from guardpass.errors import InputError
from guardpass.schema import decode

from .family import Family, Policy, validate


def read_family(path: Path) -> Family:
    """The row in a TOML file (docs/families.md has one). Raises InputError, which names the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the family {path.name}: {error}") from None
    try:
        row = decode(Family, tomllib.loads(text))
        validate(row)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path.name} is not TOML: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name}, line {_line(text, str(error))}: {error}") from None
    return row


def with_policies(row: Family, texts: list[str]) -> Family:
    """The row with policies of one's own, each given as `name=Title: description`. Raises InputError."""
    policies = list(row.policies)
    for text in texts:
        found = re.fullmatch(r"(\w+)=([^:]+):\s*(\S.*)", text, re.DOTALL)
        if not found:
            raise InputError(f"policy {text!r:.80}: expected NAME=Title: description")
        if not row.policies:
            raise InputError(f"{row.name} judges by no policies, so none can be added")
        name, title, description = found.groups()
        policies.append(Policy(name, title.strip(), description, title.strip().lower()))
    added = replace(row, policies=tuple(policies), asked=(*row.asked, *(p.name for p in policies[len(row.policies) :])))
    try:
        validate(added)
    except ValueError as error:
        raise InputError(f"{row.name} with its own policies: {error}") from None
    return added


def _line(text: str, problem: str) -> int:
    """The line a problem is about: that of the last key or table on its path, unknown keys first, that the text has.

    TOML parsers keep no places; a path such as `modes.prompt.answer` is followed through the lines instead.
    """
    path, _, rest = problem.partition(": ")
    unknown = re.findall(r"'([^']*)'", rest.partition("unknown keys")[2]) if "unknown keys" in rest else []
    lines, at = text.splitlines(), 0
    for name, number in re.findall(r"([A-Za-z_]\w*)(?:\[(\d+)\])?", path) + [(key, "") for key in unknown]:
        places = [
            line for line in range(at, len(lines)) if re.search(rf"^\s*(\[+[^\]]*)?[\"']?\b{name}\b", lines[line])
        ] or [line for line in range(at, len(lines)) if re.search(rf"\b{name}\b[\"']?\s*=", lines[line])]
        if places:
            at = places[min(int(number or 0), len(places) - 1)]
    return at + 1
