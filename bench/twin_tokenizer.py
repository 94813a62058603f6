"""A Llama-3-style tokenizer for a twin: given, or trained on the spot on a few sentences."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from guardpass.errors import InputError

# Llama 3's pre-tokenizer, as published with its tokenizer.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_SENTENCES = (
    "Classify the conversation between a human and an AI. Respond only with the taxonomy code.",
    "The quick brown fox jumps over the lazy dog, and nobody asked how to make it stop.",
    "How do I write a letter to my neighbour about the noise last night?",
    "Please tell me what the weather will be like in Seoul tomorrow morning.",
    "안녕하세요, 오늘 날씨가 정말 좋네요. 주말에 읽을 만한 한국 소설을 추천해 주세요.",
    "친구의 생일 선물로 무엇을 사면 좋을지 알려줘. 예산은 오만 원 정도야.",
    "회의가 몇 시에 시작하는지, 그리고 어디에서 만나는지 다시 한번 말씀해 주시겠어요?",
    "<human></human>\n<ai></ai>\n\nuser\n\nassistant\n\nsystem\n\n",
)


def write_tokenizer(out: Path, verdicts: Sequence[str], template: str, source: Path | None, *, limit: int) -> None:
    """Write tokenizer.json and tokenizer_config.json. Raises InputError where the vocabulary exceeds `limit`."""
    tokenizer = _trained() if source is None else _given(source)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=True) for token in verdicts])
    if tokenizer.get_vocab_size() > limit:
        raise InputError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, and the checkpoint {limit} embedding rows; "
            "--tokenizer goes with a full-size vocabulary, not with --tiny"
        )
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    added = tokenizer.get_added_tokens_decoder()
    config: dict[str, Any] = {
        "added_tokens_decoder": {
            str(id): {
                "content": token.content, "lstrip": token.lstrip, "normalized": token.normalized,
                "rstrip": token.rstrip, "single_word": token.single_word, "special": token.special,
            }
            for id, token in sorted(added.items())
        },
        "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|eot_id|>",
        "chat_template": template, "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2))


def _trained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    return tokenizer


def _given(source: Path) -> Tokenizer:
    """The tokenizer in a directory, less the verdict tokens of the guard it comes from."""
    try:
        spec = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        kept = [token for token in spec["added_tokens"] if not token["content"].startswith(("<SAFE", "<UNSAFE"))]
        tokenizer = Tokenizer.from_str(json.dumps({**spec, "added_tokens": kept}))
    except Exception as error:  # a missing file, JSON that is no tokenizer, or tokenizers' bare Exception
        raise InputError(f"{source} holds no tokenizer.json that can be read: {error}") from None
    absent = [token for token in CONTROL if tokenizer.token_to_id(token) is None]
    if absent:
        raise InputError(f"the tokenizer in {source} lacks {', '.join(absent)}, which the prompt is made of")
    return tokenizer
