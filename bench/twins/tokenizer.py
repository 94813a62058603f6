"""The tokenizer of a twin: the user's, or one trained on the spot on a few sentences."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from guardpass.errors import InputError

from .format import CONTROL, FORMATS, SPLIT, Format
from .published import TokenizerKind
from .training import trained

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


def write_tokenizer(
    out: Path, verdicts: Sequence[str], template: str, source: Path | None, *, kind: TokenizerKind, limit: int
) -> None:
    """Write tokenizer.json and tokenizer_config.json. Raises InputError where the vocabulary exceeds `limit`."""
    format = FORMATS[kind]
    if source is not None:
        tokenizer = _adapted(source, format, limit)
    else:
        tokenizer = _kanana() if kind == "kanana" else trained(format)
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
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for id, token in sorted(added.items())
        },
        **format.config,
        **({"chat_template": template} if template else {}),
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2))


def _kanana() -> Tokenizer:
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


def _adapted(source: Path, format: Format, limit: int) -> Tokenizer:
    """The tokenizer in a directory, less the verdict tokens of the guard it comes from."""
    try:
        spec = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        tokens = [token for token in spec["added_tokens"] if not token["content"].startswith(("<SAFE", "<UNSAFE"))]
        spec = _cut({**spec, "added_tokens": tokens}, limit)
        if (spec.get("post_processor") or {}).get("special_tokens") == {}:
            spec["post_processor"] = format.sections["post_processor"]  # a copy that has lost its <s>
        tokenizer = Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # a missing file, JSON that is no tokenizer, or tokenizers' bare Exception
        raise InputError(f"{source} holds no tokenizer.json that can be read: {error}") from None
    absent = [token for token in format.special if tokenizer.token_to_id(token) is None]
    if absent:
        raise InputError(f"the tokenizer in {source} lacks {', '.join(absent)}, which the prompt is made of")
    return tokenizer


def _cut(spec: dict[str, Any], limit: int) -> dict[str, Any]:
    """Less what is beyond the embedding rows, where only added tokens are: Gemma 2 lacks many that Gemma 3 has."""
    tokens = [token for token in spec["added_tokens"] if token["id"] < limit]
    beyond = {token["content"] for token in spec["added_tokens"]} - {token["content"] for token in tokens}
    vocab = spec["model"]["vocab"]
    if any(id >= limit and token not in beyond for token, id in vocab.items()):
        return spec
    vocab = {token: id for token, id in vocab.items() if token not in beyond}
    return {**spec, "added_tokens": tokens, "model": {**spec["model"], "vocab": vocab}}
