"""Tokenizer and chat format of the demo guard: those of Kanana Safeguard 8B, with a small vocabulary."""

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..twins import KANANA_TEMPLATE, find
from ..twins.format import CONTROL, SPLIT

VERDICTS = find("kanana-safeguard-8b").verdicts  # in the id order of the real checkpoint, not of the codes
# The rendered template around the two turns (jinja drops the template's last newline).
_HEAD, _REST = KANANA_TEMPLATE[KANANA_TEMPLATE.index("<|start_header_id|>") :].split("{{ ns.user_msg }}")
_MIDDLE, _TAIL = _REST.removesuffix("\n").split("{{ ns.assistant_msg }}")


# The frame's words are in every prompt, so they are worth whole tokens.
_FRAME_WEIGHT = 300


def render(user: str, assistant: str) -> str:
    """The prompt text that apply_chat_template makes of the conversation."""
    return _HEAD + user.strip() + _MIDDLE + assistant.strip() + _TAIL


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-level BPE over the distinct words of the texts, then the special and the verdict tokens.

    Each distinct word counts once: merges then follow the parts that words share (Korean stems before
    different endings) and not the few sentence frames that repeat.
    """
    tokenizer = Tokenizer(models.BPE(ignore_merges=False))
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    words += [word for word, _ in split.pre_tokenize_str(render("", ""))] * _FRAME_WEIGHT
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(CONTROL) - len(VERDICTS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=True) for token in VERDICTS])
    return tokenizer


def wrap(tokenizer: Tokenizer) -> Any:
    """The transformers tokenizer with the chat template, ready to be saved."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|eot_id|>",
        chat_template=KANANA_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
