"""The chat templates of a checkpoint, in whichever of its files: the one transformers takes, others reported."""

from typing import Any

from guardpass.errors import TemplateError

from .config_keys import shown
from .files import Folder

_FILE, _CONFIG, _FOLDER = "chat_template.jinja", "tokenizer_config.json", "additional_chat_templates"
_PROCESSOR = "chat_template.json"  # of a model that takes images too; a tokenizer does not read it


def template_text(checkpoint: Folder) -> str | None:
    """The checkpoint's chat template, None where it has none. Notes others that say something else.

    As transformers: files come before tokenizer_config.json, and of several by name the one called default is taken.
    Raises TemplateError where there are templates and transformers takes none of them.
    """
    files = _of_files(checkpoint)
    config = _named(checkpoint.json(_CONFIG).get("chat_template"))
    taken, place = (files, _FILE if "default" in files else _FOLDER) if files else (config, _CONFIG)
    if taken and "default" not in taken:
        raise TemplateError(
            f"the checkpoint has no chat template called default; {place} has {shown(sorted(taken))}; save the "
            f"one that the weights were trained with as {_FILE}"
        )
    processor = _named(checkpoint.json(_PROCESSOR).get("chat_template")) if checkpoint.has(_PROCESSOR) else {}
    if not taken and processor:
        raise TemplateError(
            f"the checkpoint has no chat template that its tokenizer reads: {_PROCESSOR} is that of a processor; save "
            f"its text as {_FILE} if the weights were trained with it"
        )
    if not taken:
        return None
    text = taken["default"]
    said = {_CONFIG: config.get("default", text), _PROCESSOR: processor.get("default", text)}
    others = [place for place, other in said.items() if other != text]
    if others:
        checkpoint.note(f"the chat template of {' and of '.join(others)} differs from the one that is used, of {place}")
    if len(taken) > 1:
        checkpoint.note(f"of several chat templates ({shown(sorted(taken))}) the one called default is used")
    return text


def _of_files(checkpoint: Folder) -> dict[str, str]:
    found = {"default": checkpoint.text(_FILE)} if (checkpoint.directory / _FILE).exists() else {}
    folder = checkpoint.directory / _FOLDER
    named = sorted(path.name for path in folder.glob("*.jinja")) if folder.is_dir() else []
    return found | {name.removesuffix(".jinja"): checkpoint.text(f"{_FOLDER}/{name}") for name in named}


def _named(value: Any) -> dict[str, str]:
    """Templates by name, of what tokenizer_config.json may hold: one, a list of them with names, or an object."""
    if isinstance(value, str):
        return {"default": value}
    entries = value.items() if isinstance(value, dict) else _pairs(value) if isinstance(value, list) else ()
    return {name: text for name, text in entries if isinstance(name, str) and isinstance(text, str)}


def _pairs(entries: list[Any]) -> list[tuple[Any, Any]]:
    return [(entry.get("name"), entry.get("template")) for entry in entries if isinstance(entry, dict)]
