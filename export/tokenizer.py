"""The checkpoint's tokenizer, and the content tokenizer that a guard gets instead."""

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer

from guardpass.errors import CheckpointError

from .checkpoint import Checkpoint


class CheckpointTokenizer:
    """`full` knows added tokens, as transformers encodes a rendered prompt; `content` knows none."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        spec = checkpoint.json("tokenizer.json")
        model = spec.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE":
            kind = model.get("type") if isinstance(model, dict) else model
            raise CheckpointError(f"tokenizer.json has a model of type {kind!r}, expected 'BPE'")
        spec.update(truncation=None, padding=None)
        self.full = _load(spec)
        _add_from_config(self.full, checkpoint)
        # get_added_tokens_decoder also lists what _add_from_config brought.
        self.added: dict[int, AddedToken] = self.full.get_added_tokens_decoder()
        self.content_json = json.dumps(
            _content_spec(spec, {t.content for t in self.added.values()}), ensure_ascii=False
        )
        self.content = Tokenizer.from_str(self.content_json)

    def split(self, text: str) -> list[int]:
        """Ids of static text, added tokens recognized."""
        ids: list[int] = self.full.encode(text, add_special_tokens=False).ids
        return ids

    def content_ids(self, text: str) -> list[int]:
        """Ids of ordinary text, added tokens unknown."""
        ids: list[int] = self.content.encode(text, add_special_tokens=False).ids
        return ids

    def added_ranges(self, text: str) -> list[tuple[int, int]]:
        """Character ranges of the added tokens in static text."""
        encoding = self.full.encode(text, add_special_tokens=False)
        return [at for token, at in zip(encoding.ids, encoding.offsets, strict=True) if token in self.added]


def _load(spec: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"tokenizer.json cannot be read: {error}") from None


def _add_from_config(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """transformers adds the tokens of tokenizer_config.json to those of tokenizer.json; ids must not move."""
    declared = checkpoint.json("tokenizer_config.json").get("added_tokens_decoder", {})
    if not isinstance(declared, dict):
        raise CheckpointError("added_tokens_decoder in tokenizer_config.json is not an object")
    for key, entry in declared.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise CheckpointError(f"added_tokens_decoder in tokenizer_config.json has the entry {entry!r:.80}")
        flags = {name: entry.get(name, False) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        tokenizer.add_tokens([AddedToken(entry["content"], **flags)])
        if str(tokenizer.token_to_id(entry["content"])) != key:
            raise CheckpointError(
                f"tokenizer_config.json gives {entry['content']!r} the id {key}, tokenizer.json "
                f"{tokenizer.token_to_id(entry['content'])}; the checkpoint contradicts itself"
            )


def _content_spec(spec: dict[str, Any], reserved: set[str]) -> dict[str, Any]:
    """tokenizer.json without added tokens, and without vocabulary or merges that could spell one."""
    model = dict(spec["model"])
    # The unknown token stays: encoding fails without it. Being reserved, it is refused if it ever comes.
    dropped = (reserved - {model.get("unk_token")}) & model["vocab"].keys()
    if dropped:
        model["vocab"] = {token: id for token, id in model["vocab"].items() if token not in dropped}
        model["merges"] = [pair for pair in model["merges"] if not _spells(pair, dropped)]
    return {**spec, "model": model, "added_tokens": [], "post_processor": None}


def _spells(pair: Any, dropped: set[str]) -> bool:
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left + right in dropped or left in dropped or right in dropped
