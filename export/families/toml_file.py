"""A family of one's own, as a TOML file: the same rows as the published ones, checked the same way."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from guardpass.errors import InputError
from guardpass.format.codec import decode

from .schema import Family, Policy, validate
from .toml_lines import line_of


def read_family(path: Path) -> Family:
    """The row in a TOML file (docs/families.md has one). Raises InputError, which names the line."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the family {path.name}: {getattr(error, 'strerror', error)}") from None
    try:
        text = data.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path.name}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path.name} is not TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path.name} is not a family: its values are nested too deep") from None
    try:
        row = decode(Family, table)
        for key in ("checkpoints", "marks"):
            if getattr(row, key):
                raise ValueError(f"{key}: expected none, as a file is always named; remove it")
        validate(row)
    except ValueError as error:
        problem = str(error).removeprefix("(top)").lstrip(".: ")
        raise InputError(f"{path.name}, line {_line(text, problem)}: {problem}") from None
    return row


def with_policies(row: Family, texts: Sequence[str]) -> Family:
    """The row, checked, with the caller's policies added, `name=Title: description` each. Raises InputError."""
    policies = list(row.policies)
    for text in texts:
        match = re.fullmatch(r"(\w+)=([^:]+):\s*(\S.*)", text, re.DOTALL)
        if not match:
            raise InputError(f"policy {text!r:.80}: expected NAME=Title: description")
        if not row.policies:
            raise InputError(f"{row.name} judges by no policies, so none can be added")
        name, title, description = match.groups()
        policies.append(Policy(name, title.strip(), description, title.strip().lower()))
    added = replace(row, policies=tuple(policies), asked=(*row.asked, *(p.name for p in policies[len(row.policies) :])))
    try:
        validate(added)
    except ValueError as error:
        raise InputError(f"family {row.name}: {error}") from None
    return added


def _line(text: str, problem: str) -> int:
    """The line a problem, "path: what is wrong", is about: that of an unknown key, where it names one."""
    path, _, unknown = problem.partition("missing keys")
    path = path.partition(": ")[0]
    keys = re.findall(r"'([^']*)'", unknown.partition("unknown keys")[2])
    return min((line_of(text, f"{path}.{key}".lstrip(".")) for key in keys), default=line_of(text, path))
