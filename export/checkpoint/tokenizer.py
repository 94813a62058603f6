"""The checkpoint's tokenizer, and the content tokenizer that a guard gets instead."""

import json
import re
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer

from guardpass.errors import CheckpointError

from .files import Folder
from .special_tokens import check_legacy, content_of, special_tokens, tokenizer_config

# Added tokens that are ordinary text: SentencePiece vocabularies keep runs of white space and HTML elements so. Not
# <s>, which is the beginning of a text in as many of them.
_ORDINARY = re.compile(
    r"[\s▁]+|</?(table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|sub|sup|code|a|html|body|"
    r"img|span|bbox|ul|ol|li|div|iframe|footer)>"
)


class CheckpointTokenizer:
    """`full` knows added tokens, as transformers encodes a rendered prompt; `content` only those that are text.

    `reserved` are the others, by id: control tokens, and verdict tokens where they are added. `stops`: ids of tokens
    that stop a decode.
    """

    def __init__(self, checkpoint: Folder) -> None:
        spec = checkpoint.json("tokenizer.json")
        model = spec.get("model")
        if not isinstance(model, dict) or model.get("type") != "BPE":
            kind = model.get("type") if isinstance(model, dict) else model
            raise CheckpointError(f"tokenizer.json has a model of type {kind!r}, expected 'BPE'")
        if model.get("dropout"):
            raise CheckpointError("tokenizer.json has BPE dropout, so the same text has other tokens every time")
        if model.get("continuing_subword_prefix"):  # byte-level BPE has none; tokenizers aborts on some
            raise CheckpointError("tokenizer.json has a continuing_subword_prefix, which is not supported")
        spec.update(truncation=None, padding=None)
        self.full = _load(spec)
        config = tokenizer_config(checkpoint)
        _add_from_config(self.full, config)
        check_legacy(self.full, checkpoint, config)
        # get_added_tokens_decoder also lists what _add_from_config brought.
        self.added: dict[int, AddedToken] = self.full.get_added_tokens_decoder()
        named = _named_special(self.added, config)
        self.reserved = {
            id: token
            for id, token in self.added.items()
            if token.special or token.content in named or not _ORDINARY.fullmatch(token.content)
        }
        ordinary = {id: token for id, token in self.added.items() if id not in self.reserved}
        content = _content_spec(spec, {token.content for token in self.reserved.values()}, ordinary)
        self._bos = config.get("bos_token")
        if isinstance(self._bos, dict):
            self._bos = self._bos.get("content")
        self.stops = _stops(self.full, checkpoint)
        self._pairs: set[str] = set()
        self._spaced = _never_spaced(content)
        self.content = _load(content)
        self.content_json = json.dumps(content, ensure_ascii=False)

    def split(self, text: str) -> list[int]:
        """Ids of static text, added tokens recognized."""
        ids: list[int] = _encode(self.full, text).ids
        return ids

    def content_ids(self, text: str) -> list[int]:
        """Ids of ordinary text, reserved tokens unknown."""
        ids: list[int] = _encode(self.content, text).ids
        return ids

    def encode(self, text: str) -> list[tuple[int, int, int]]:
        """(id, first character, end) of each token of static text, added tokens recognized."""
        encoding = _encode(self.full, text)
        return [(id, *at) for id, at in zip(encoding.ids, encoding.offsets, strict=True)]

    def bos(self) -> int:
        """The id of the token that a raw prompt begins with. Raises CheckpointError where none is named."""
        id = self.full.token_to_id(self._bos) if self._bos is not None else None
        if id is None:
            raise CheckpointError(
                "tokenizer_config.json names no bos_token that the tokenizer knows; the prompt begins with one"
            )
        return int(id)

    def parts(self, left: str, right: str) -> bool:
        """Whether no token holds `right` behind `left`, so that nothing merges across them. False where not ASCII."""
        if not (left + right).isascii():
            return False
        if not self._pairs:
            texts = [*self.content.get_vocab(), *(token.content for token in self.added.values())]
            self._pairs.update(text[at : at + 2] for text in texts for at in range(len(text) - 1))
        shown = "".join(map(self._surface, (left, right)))
        return shown not in self._pairs and left + right not in self._pairs

    def _surface(self, character: str) -> str:
        """The character as tokens show it (a byte-level space is another letter)."""
        tokens = [self.content.id_to_token(id) or "" for id in self.content_ids(character)]
        # A byte of its own, <0x0A>, is merged with nothing; what the tokenizer drops is in no token at all.
        return tokens[-1] if tokens and len(tokens[-1]) == 1 else character

    def splits(self, text: str, at: int) -> bool:
        """Whether pre-tokenization parts the text before character `at`, or parts no text at all."""
        normalizer, pre_tokenizer = self.content.normalizer, self.content.pre_tokenizer
        left, right, whole = (
            normalizer.normalize_str(part) if normalizer else part for part in (text[:at], text[at:], text)
        )
        pieces = pre_tokenizer.pre_tokenize_str(whole) if pre_tokenizer else []
        return left + right == whole and (len(pieces) < 2 or any(start == len(left) for _, (start, _) in pieces))

    def opening(self, text: str) -> str:
        """Text at the very start of a prompt, as `content` encodes it: with the space it would get there."""
        return text if not self._spaced or text.startswith((" ", "▁")) else " " + text


def _load(spec: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"tokenizer.json cannot be read: {error}") from None


def _encode(tokenizer: Tokenizer, text: str) -> Encoding:
    try:
        return tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"tokenizer.json cannot encode {text!r:.60}: {error}") from None


def _add_from_config(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """transformers adds the tokens of tokenizer_config.json to those of tokenizer.json; ids must not move."""
    declared = config.get("added_tokens_decoder", {})
    if not isinstance(declared, dict):
        raise CheckpointError("added_tokens_decoder in tokenizer_config.json is not an object")
    tokens: list[AddedToken] = []
    for entry in declared.values():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise CheckpointError(f"added_tokens_decoder in tokenizer_config.json has the entry {entry!r:.80}")
        flags = {name: entry.get(name, False) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        try:
            tokens.append(AddedToken(entry["content"], **flags))
        except Exception as error:  # flags that are no booleans, text that is no Unicode
            raise CheckpointError(f"added_tokens_decoder in tokenizer_config.json has {entry!r:.80}: {error}") from None
    tokenizer.add_tokens(tokens)  # at once: each call builds the trie of all added tokens again
    for key, token in zip(declared, tokens, strict=True):
        if str(tokenizer.token_to_id(token.content)) != key:
            raise CheckpointError(
                f"tokenizer_config.json gives {token.content!r} the id {key}, tokenizer.json "
                f"{tokenizer.token_to_id(token.content)}; the checkpoint contradicts itself"
            )


def _named_special(added: dict[int, AddedToken], config: dict[str, Any]) -> set[str]:
    """The tokens that tokenizer_config.json calls special; tokenizer.json may flag them otherwise.

    transformers adds those that only it names: then ids would differ, which is refused.
    """
    named: list[Any] = list(special_tokens(config).values())
    for key in ("additional_special_tokens", "extra_special_tokens"):
        several = config.get(key) or []
        named += several.values() if isinstance(several, dict) else several if isinstance(several, list) else [several]
    texts = [content_of(value) for value in named if value is not None]
    contents = [token.content for token in added.values()]  # a list, as a name may be no text, and not hashable
    unknown = [text for text in texts if text not in contents]
    if unknown:
        raise CheckpointError(
            f"tokenizer_config.json names special tokens that tokenizer.json does not add: {unknown!r:.200}; "
            "save the tokenizer again with transformers"
        )
    entries = config.get("added_tokens_decoder") or {}
    return {*texts, *(entry["content"] for entry in entries.values() if entry.get("special") is True)}


def _stops(tokenizer: Tokenizer, checkpoint: Folder) -> frozenset[int]:
    """The tokens at which transformers' generate stops, and the one that tokenizer_config.json calls the end."""
    end = checkpoint.json("tokenizer_config.json").get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    ids: list[Any] = [tokenizer.token_to_id(end)] if isinstance(end, str) else []
    for name in ("config.json", "generation_config.json"):
        if (checkpoint.directory / name).exists():
            listed = checkpoint.json(name).get("eos_token_id")
            ids += listed if isinstance(listed, list) else [listed]
    return frozenset(id for id in ids if isinstance(id, int))


def _content_spec(spec: dict[str, Any], reserved: set[str], ordinary: dict[int, AddedToken]) -> dict[str, Any]:
    """tokenizer.json with no added tokens but ordinary ones, and no vocabulary or merges that could spell another."""
    model = dict(spec["model"])
    # The unknown token stays: encoding fails without it. Being reserved, it is refused if it ever comes.
    dropped = (reserved - {model.get("unk_token")}) & model["vocab"].keys()
    if dropped:
        model["vocab"] = {token: id for token, id in model["vocab"].items() if token not in dropped}
        model["merges"] = [pair for pair in model["merges"] if not _spells(pair, dropped)]
    # An added token takes its id from the vocabulary; one that is not there would be numbered anew.
    model["vocab"] = {**model["vocab"], **{token.content: id for id, token in ordinary.items()}}
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    entries = [{"id": id, **{flag: getattr(token, flag) for flag in flags}} for id, token in ordinary.items()]
    return {**spec, "model": model, "added_tokens": entries, "post_processor": None}


def _never_spaced(spec: dict[str, Any]) -> bool:
    """Metaspace puts a space before a prompt's first text: not the content tokenizer, whose text comes later.

    Returns whether it would have done so.
    """
    metaspace = spec.get("pre_tokenizer") or {}
    if metaspace.get("type") != "Metaspace" or metaspace.get("prepend_scheme") != "first":
        return False
    spec["pre_tokenizer"] = {**metaspace, "prepend_scheme": "never"}
    return True


def _spells(pair: Any, dropped: set[str]) -> bool:
    left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
    return left + right in dropped or left in dropped or right in dropped
