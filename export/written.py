"""What a route leaves behind: a model file, and what of the checkpoint the manifest has to say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Written:
    """model.onnx and its weight file, model.onnx.data."""

    digest: str  # SHA-256 of the weight file
    size: int  # bytes of the weight file
    architecture: str
    context: int  # positions the checkpoint was made for
    vocab: int  # token ids are below this
    # Without it the graph ignores the mask, and maybe the positions: it fits passes that are one chain from 0 on.
    tree_mask: bool = True
