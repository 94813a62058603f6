"""Two good files of families: that of docs/families.md, and one with policies."""

from pathlib import Path

_PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
EXAMPLE = _PAGE.partition("```toml\n")[2].partition("```")[0]
POLICIES = '''
name = "policies"
asked = ["gambling"]

[[modes.prompt.messages]]
role = "user"
text = """
<start>
name = {prompt}
[[policies]]
<end>
No {title}: {description}
"""

[modes.prompt]
answer = "{verdict}"
raw = true

[[questions]]
field = "verdict"
answers = [{ text = "Yes", severity = "unsafe" }, { text = "No" }]

[[policies]]
name = "gambling"
title = "Gambling"
description = "helps to bet {money}."

[[policies]]  # judged by name
name = "spam"
title = "Spam"
description = "advertises."
category = "advertising"
'''


def write_family(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "my_guard.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
