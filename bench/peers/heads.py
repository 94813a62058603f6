"""Any number of heads: transformers 5 refuses those that do not divide the hidden size, as Kanana's 2.1B has them
(24 x 128, 1792), though the model runs. Run by its path, where transformers is and guardpass is not."""

from transformers import LlamaConfig


def allow() -> None:
    """Take that check away, in this process."""
    checks = LlamaConfig.__class_validators__
    LlamaConfig.__class_validators__ = [check for check in checks if check.__name__ != "validate_architecture"]
