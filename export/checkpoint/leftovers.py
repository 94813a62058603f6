"""Files that lie beside those a guard is made from: reported where a reader could take them for part of it."""

from guardpass.errors import CheckpointError

from .config_keys import note_generation, shown
from .files import Checkpoint

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")  # what a trainer leaves behind
_GENERATION = "generation_config.json"


def note_leftovers(source: Checkpoint) -> None:
    """Notes weights that are not used, an adapter that is not merged, and scores that generation would change."""
    used = {path.name for path in source.files()}
    names = sorted(path.name for path in source.directory.iterdir() if path.is_file() and path.name not in used)
    adapters = [name for name in names if name.startswith("adapter_")]
    if adapters:
        source.note(
            f"an adapter lies beside the weights and is not applied ({shown(adapters)}); transformers applies it where "
            "peft is installed; if it is not merged into them yet, merge it and export the result"
        )
    others = [name for name in names if name.endswith(_WEIGHTS) and not name.startswith((*_TRAINING, "adapter_"))]
    if others:
        weights = sorted({tensor.file.name for tensor in source.tensors.values()})
        source.note(f"weights that are not used lie beside {shown(weights)}: {shown(others)}")
    if source.has(_GENERATION):
        try:
            note_generation(source, source.json(_GENERATION), _GENERATION)
        except CheckpointError as error:  # it is none of a guard's files
            source.note(str(error))
