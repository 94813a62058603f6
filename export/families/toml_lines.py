"""Where in a TOML file something stands: tomllib keeps no places, and an error has to name the line."""

import re

# Three quotes close a long string, and up to two of its own may stand right before them.
_TOKEN = re.compile(
    r'"{3}(?:\\.|[^\\])*?"{3,5}|\'{3}.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'|#[^\n]*|[\n\[\]{},=]|[^\s\[\]{},=#"\']+',
    re.DOTALL,
)


def line_of(text: str, path: str) -> int:
    """The line where `path` begins in valid TOML, or else the nearest table around it that the text has.

    A path is written as schema.decode does: `questions[0].answers[1].text`.
    """
    lines = _places(text)
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 1)


def _places(text: str) -> dict[str, int]:
    """Every key, table and element, and its line."""
    lines: dict[str, int] = {}
    tables: dict[str, int] = {}  # arrays of tables: the number of the last
    open_: list[tuple[str, int | None]] = []  # arrays, with the number of the element, and inline tables
    table = here = key = ""
    line, brackets, value = 1, 0, False

    def enter(path: str, key: str) -> str:
        for part in key.split("."):
            path = f"{path}.{part}" if path else part
            lines.setdefault(path, line)
            path += f"[{tables[path]}]" if path in tables else ""
        return path

    for token in _TOKEN.findall(text):
        if token == "\n" and not open_:
            key, brackets, value = "", 0, False
        elif token == "=":
            here, key, value = enter(open_[-1][0] if open_ else table, key), "", True
        elif token == "[" and not value:
            brackets += 1
        elif token == "]" and not open_ and key:  # the end of a header
            table, key = enter("", key), ""
            if brackets == 2:
                array = re.sub(r"\[\d+\]$", "", table)
                tables[array] = tables.get(array, -1) + 1
                table = f"{array}[{tables[array]}]"
            lines.setdefault(table, line)
        elif token in ("]", "}") and open_:
            here, number = open_.pop()
            value = True
        elif token == "," and open_:
            path, number = open_.pop()
            value = number is not None
            number = number + 1 if number is not None else None
            open_.append((path, number))
            here, key = f"{path}[{number}]", ""
        elif value and token[0] not in "\n#":
            lines.setdefault(here, line)
            if token in ("[", "{"):
                open_.append((here, 0 if token == "[" else None))
                value = token == "["
                here = f"{here}[0]"
        elif token[0] not in "\n#":
            key += token[1:-1] if token[0] in "\"'" else token
        line += token.count("\n")
    return lines
