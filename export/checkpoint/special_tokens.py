"""What tokenizer_config.json, and the files that it replaced, say of special tokens: as transformers reads them."""

from typing import Any

from tokenizers import Tokenizer

from guardpass.errors import CheckpointError

from .files import LEGACY, Folder

# The names that transformers gives special tokens, and passes to a chat template.
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def tokenizer_config(folder: Folder) -> dict[str, Any]:
    """tokenizer_config.json and, where it is an old one without added tokens, what transformers then takes of
    special_tokens_map.json. Raises CheckpointError where the two contradict each other."""
    config = folder.json("tokenizer_config.json")
    if "added_tokens_decoder" in config or not folder.has(LEGACY[0]):
        return config
    mapped = folder.json(LEGACY[0])
    for key, value in mapped.items():
        one, other = content_of(config.get(key, value)), content_of(value)
        if one != other:
            raise CheckpointError(
                f"tokenizer_config.json has the {key} {one!r:.60}, {LEGACY[0]} {other!r:.60}; "
                "correct the one that is wrong, or save the tokenizer again with transformers"
            )
    return {**mapped, **config}


def special_tokens(config: dict[str, Any]) -> dict[str, Any]:
    """The special tokens that have a name, which transformers passes to a chat template by it.

    transformers 5 names more than `SPECIAL_TOKENS`: any key that ends so, and two objects of them.
    """
    named = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str | dict)}
    for group in ("extra_special_tokens", "model_specific_special_tokens"):
        several = config.get(group) or {}
        if group == "model_specific_special_tokens" and not isinstance(several, dict):
            raise CheckpointError(f"{group} in tokenizer_config.json is {several!r:.80}, expected an object")
        for name, value in several.items() if isinstance(several, dict) else ():
            one, other = content_of(named.setdefault(name, value)), content_of(value)
            if one != other:
                raise CheckpointError(
                    f"tokenizer_config.json has {name!r:.60} twice, as {one!r:.60} and {other!r:.60}; remove the one "
                    "that is wrong"
                )
    odd = {name: config[name] for name in SPECIAL_TOKENS if name not in named and config.get(name) is not None}
    return named | odd  # whoever reads a value refuses one that is not text


def content_of(value: Any) -> Any:
    """The text of a token, which may be an object; of a list of them, theirs."""
    if isinstance(value, list):
        return [content_of(each) for each in value]
    return value.get("content") if isinstance(value, dict) else value


def check_legacy(tokenizer: Tokenizer, checkpoint: Folder, config: dict[str, Any]) -> None:
    """transformers adds the tokens of added_tokens.json where tokenizer_config.json lists none; ids must not move."""
    if "added_tokens_decoder" in config or not checkpoint.has(LEGACY[1]):
        return
    for token, id in checkpoint.json(LEGACY[1]).items():
        if tokenizer.token_to_id(token) != id:
            raise CheckpointError(
                f"{LEGACY[1]} gives {token!r:.60} the id {id!r:.20}, tokenizer.json {tokenizer.token_to_id(token)}; "
                "the checkpoint contradicts itself"
            )
