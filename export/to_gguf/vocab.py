"""A tokenizer as GGUF holds it, and as tokenizer.json does: one table for both directions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guardpass.errors import CheckpointError

from ..checkpoint.tokenizer import CheckpointTokenizer

# gguf.TokenType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_BYTES = [f"<0x{value:02X}>" for value in range(256)]
_BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
_SPM = _BPE | {"fuse_unk": True, "byte_fallback": True}


@dataclass(frozen=True)
class Splitting:
    """How text is cut before BPE: tokenizer.json's sections, and llama.cpp's names for them."""

    model: str  # tokenizer.ggml.model
    pre: str  # tokenizer.ggml.pre
    normalizer: Mapping[str, Any] | None
    pre_tokenizer: Mapping[str, Any] | None
    options: Mapping[str, Any]  # of the BPE model
    space: bool = False  # SentencePiece: a text begins with a space


def _byte_level(*before: Mapping[str, Any], regex: bool = False) -> dict[str, Any]:
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}
    return {"type": "Sequence", "pretokenizers": [*before, last]}


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}

# The first row of a pair (model, pre) is the one an adopted GGUF gets.
SPLITTINGS = (
    Splitting("gpt2", "llama-bpe", None, _byte_level(_split(_LLAMA3)), _BPE | {"ignore_merges": True}),
    Splitting("gpt2", "qwen2", {"type": "NFC"}, _byte_level(_split(_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"))), _BPE),
    Splitting("gpt2", "smollm", None, _byte_level({"type": "Digits", "individual_digits": True}, regex=True), _BPE),
    Splitting("llama", "default", _SPACES, _AT_SPACES, _SPM),
    Splitting("llama", "default", _SPACES, None, _SPM),
    Splitting(
        "llama",
        "default",
        None,
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        _SPM,
        space=True,
    ),
)


@dataclass(frozen=True)
class Vocabulary:
    """A GGUF's tokenizer.ggml.* keys."""

    splitting: Splitting
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] | None  # SentencePiece's
    merges: Sequence[str] | None  # byte-level BPE's
    special: Mapping[str, int]  # "bos" and so on, to ids
    add_bos: bool


def to_gguf(tokenizer: CheckpointTokenizer, config: Mapping[str, Any], rows: int) -> Vocabulary:
    """The tokenizer's keys in a GGUF of `rows` embeddings. Raises CheckpointError for a tokenizer llama.cpp lacks."""
    spec = json.loads(tokenizer.full.to_str())
    splitting = next((row for row in SPLITTINGS if _fits(row, spec)), None)
    if splitting is None:
        raise CheckpointError(
            f"llama.cpp has no name for this tokenizer's way of splitting text "
            f"({json.dumps(spec.get('pre_tokenizer')):.200}); export to onnx instead"
        )
    tokens, types = [f"[PAD{id}]" for id in range(rows)], [UNUSED] * rows
    for token, id in spec["model"]["vocab"].items():
        tokens[id], types[id] = token, NORMAL
    for id, token in tokenizer.added.items():
        looks_special = token.content.startswith("<|") and token.content.endswith("|>")
        types[id] = CONTROL if token.special or looks_special else USER_DEFINED
        tokens[id] = token.content if types[id] == CONTROL else token.content.replace("▁", " ")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["model"]["merges"]]
    scores: list[float] | None = None
    if splitting.model == "llama":
        scores, ids = [-1e6] * rows, spec["model"]["vocab"]
        for rank, pair in reversed([*enumerate(merges)]):  # a token's best rank is written last
            scores[ids[pair.replace(" ", "")]] = float(-rank)
        for id, token in enumerate(tokens):
            types[id] = BYTE if token in _BYTES else types[id]
        unknown = spec["model"].get("unk_token") or "<unk>"
        if unknown in ids:
            types[ids[unknown]] = UNKNOWN
    special = {}
    for name in ("bos", "eos", "unk", "pad"):
        value = config.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and (id := tokenizer.full.token_to_id(text)) is not None:
            special[name] = int(id)
    opened = tokenizer.full.encode("a", add_special_tokens=True).ids[:1]
    return Vocabulary(
        splitting,
        tokens,
        types,
        scores,
        merges if scores is None else None,
        special,
        add_bos=opened == [special.get("bos")],
    )


def from_gguf(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json of a GGUF. Raises CheckpointError for a kind not in the table."""

    def get(key: str, default: Any = None) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}", default)

    row = splitting_of(metadata)
    spm = row.model == "llama"
    types = get("token_type").tolist()
    tokens: list[str] = get("tokens")
    if spm:  # llama.cpp wants the spaces of added tokens as they stand in a text
        tokens = [t.replace(" ", "▁") if kind == USER_DEFINED else t for t, kind in zip(tokens, types, strict=True)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": id, "content": token, **flags, "special": kind != USER_DEFINED}
        for id, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    vocab = {token: id for id, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED}
    options = dict(row.options)
    if spm:
        options["unk_token"] = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    merges = _merges(tokens, types, get("scores")) if spm else [pair.split(" ", 1) for pair in get("merges")]
    merges = [pair for pair in merges if {pair[0], pair[1], "".join(pair)} <= vocab.keys()]
    config: dict[str, Any] = {}
    for kind, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        id = get(f"{key}_token_id")
        config[f"{kind}_token"] = None if id is None else tokens[id]
    config["chat_template"] = metadata.get("tokenizer.chat_template")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": row.normalizer,
        "pre_tokenizer": row.pre_tokenizer,
        "post_processor": None,
        "decoder": _decoder(spm),
        "model": {**options, "vocab": vocab, "merges": merges},
    }, config


def splitting_of(metadata: Mapping[str, Any]) -> Splitting:
    """The row of a GGUF's tokenizer. Raises CheckpointError where there is none."""
    model, pre = metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre")
    space = model == "llama" and metadata.get("tokenizer.ggml.add_space_prefix", True)
    for row in SPLITTINGS:
        if row.model == model and row.space == space and (model == "llama" or row.pre == pre):
            return row
    names = sorted({row.pre for row in SPLITTINGS if row.model == "gpt2"})
    raise CheckpointError(f"its pre-tokenizer is {pre!r:.60}, expected one of: {', '.join(names)}")


def _fits(row: Splitting, spec: Mapping[str, Any]) -> bool:
    model = spec["model"]
    alike = all(bool(model.get(key)) == bool(row.options[key]) for key in ("byte_fallback", "ignore_merges"))
    parts = [(spec.get(key), getattr(row, key)) for key in ("normalizer", "pre_tokenizer")]
    return alike and all(_plain(actual) == _plain(expected) for actual, expected in parts)


def _plain(section: Any) -> Any:
    """A section without the option that moves offsets and no tokens."""
    if isinstance(section, dict):
        return {key: _plain(value) for key, value in section.items() if key != "trim_offsets"}
    return [_plain(part) for part in section] if isinstance(section, list) else section


def _decoder(spm: bool) -> dict[str, Any]:
    if not spm:
        return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]}


def _merges(tokens: Sequence[str], types: Sequence[int], scores: Any) -> list[list[str]]:
    """The merges that SentencePiece's scores amount to, the best first, as transformers converts them."""
    texts = {token: id for id, token in enumerate(tokens) if types[id] in (NORMAL, USER_DEFINED)}
    ranked: list[tuple[float, int, int, list[str]]] = []
    for token, id in texts.items():
        for at in range(1, len(token)):
            left, right = texts.get(token[:at]), texts.get(token[at:])
            if left is not None and right is not None:
                ranked.append((-float(scores[id]), left, right, [token[:at], token[at:]]))
    ranked.sort(key=lambda merge: merge[0])  # stable, so that the splits of one token stay together
    return [pair for *_, pair in ranked]
