"""The formats of tokenizer.json that the twins have, as the real files have them, and what a trained one knows.

The real vocabularies keep some answer words whole and cut others ("Harmful" is H, arm, ful); `words` repeats that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .published import TokenizerKind

# Llama 3's pre-tokenizer, as published with its tokenizer; Qwen's takes digits one by one.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SPLIT = SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
# SentencePiece trains on words, and then merges whatever text it is given, unsplit.
_WORDS = r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\p{N}| "
CONTROL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
# Gemma's added tokens that are text: they are found before the text is split.
_RUNS = tuple("\n" * count for count in range(1, 9)) + tuple("▁" * count for count in range(2, 9))
_TAGS = ("table", "tr", "td", "h1", "blockquote", "strong", "em", "b", "i", "u", "s", "code", "a", "span", "ul", "li")
_HTML = tuple(f"<{slash}{tag}>" for slash in ("", "/") for tag in _TAGS)


@dataclass(frozen=True)
class Format:
    """One kind of tokenizer."""

    split: str  # how sentences are cut into words to train on
    words: str  # answer words, | where the real vocabulary cuts one, _ for a space
    model: Mapping[str, Any]
    sections: Mapping[str, Any]  # of tokenizer.json
    special: tuple[str, ...]
    config: Mapping[str, Any]  # of tokenizer_config.json
    plain: tuple[str, ...] = ()  # added tokens that are not special
    byte_level: bool = True  # otherwise SentencePiece's: spaces are ▁, unknown characters fall back to bytes


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


def _byte_level(prefix: bool, trim: bool, regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex}


def _split(pattern: dict[str, str], behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def _sequence(*pretokenizers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(pretokenizers)}


def _before_text(bos: str, id: int) -> dict[str, Any]:
    """A post-processor that puts `bos` before each text."""
    parts = [
        [{"SpecialToken": {"id": bos, "type_id": type}}, {"Sequence": {"id": letter, "type_id": type}}]
        for type, letter in enumerate("AB")
    ]
    return {
        "type": "TemplateProcessing",
        "single": parts[0],
        "pair": parts[0] + parts[1],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    }


def _decoder(*last: dict[str, Any]) -> dict[str, Any]:
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}, *last]}


_SHARED = (
    "Yes No yes no _Yes _No _yes _no Safe Unsafe safe unsafe _Safe _Unsafe _safe _unsafe S Safety Categories "
    "H|arm|ful _harm|ful _request _response "
)
_NUMBERS = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 "

FORMATS: dict[TokenizerKind, Format] = {
    "llama3": Format(
        SPLIT,
        _SHARED + _NUMBERS + "Response _refusal ,S",
        _BPE | {"ignore_merges": True},
        {
            "normalizer": None,
            "pre_tokenizer": _sequence(_split({"Regex": SPLIT}, "Isolated"), _byte_level(False, True, False)),
            "post_processor": _byte_level(True, False, True),
            "decoder": _byte_level(True, True, True),
        },
        CONTROL,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|eot_id|>"},
    ),
    "qwen": Format(
        _QWEN_SPLIT,
        _SHARED + "_Cont|rovers|ial Ref|usal _ref|usal _Viol|ent _Non _Sexual _P|II _Suicide _Un|ethical "
        "_Polit|ically _Copyright _Jail|break _None",
        _BPE | {"continuing_subword_prefix": "", "end_of_word_suffix": ""},
        {
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": _sequence(_split({"Regex": _QWEN_SPLIT}, "Isolated"), _byte_level(False, False, False)),
            "post_processor": _byte_level(False, False, False),
            "decoder": _byte_level(False, False, False),
        },
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {
            "add_bos_token": False,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
        },
        plain=("<tool_call>", "</tool_call>", "<think>", "</think>"),
    ),
    "gemma": Format(
        _WORDS,
        _SHARED,
        _BPE | {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
        {
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            "pre_tokenizer": _split({"String": " "}, "MergedWithPrevious"),
            "post_processor": _before_text("<bos>", 2),
            "decoder": _decoder(),
        },
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
        plain=("<mask>", *_RUNS, *_HTML),
        byte_level=False,
    ),
    "mistral": Format(
        _WORDS,
        _SHARED + "Response _ref|usal",
        _BPE | {"fuse_unk": True, "byte_fallback": True},
        {
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
            # Copies that transformers 5 has saved put no <s> before a text; published guards have it there.
            "post_processor": _before_text("<s>", 1),
            "decoder": _decoder({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
        },
        ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
        },
        byte_level=False,
    ),
}
FORMATS["kanana"] = FORMATS["llama3"]
