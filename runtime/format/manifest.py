"""The types of guard.json, the only interface between export and runtime."""

from dataclasses import dataclass, field
from typing import Literal

SCHEMA = 4
MANIFEST = "guard.json"

# "through" strips on the right, and if no content is left, it strips the text before the content too, like a template
# that trims a whole message.
Strip = Literal["none", "left", "right", "both", "through"]
Severity = Literal["safe", "controversial", "unsafe"]
Role = Literal["prompt", "response"]
EngineName = Literal["onnx", "native", "llamacpp"]
# Precisions of engine onnx (fp16 and bf16 on CUDA), of native (int8, int4) and of llamacpp; "other": any further one of
# an adopted GGUF.
Quant = Literal[
    "fp32", "int8", "int4", "fp16", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "other"
]
Device = Literal["cpu", "cuda"]
Mode = Role  # a mode is named after the last role it judges
# The reason that a guard has no gate: on request, nothing was quantized, or no weights to compare with (adopted GGUF).
Ungated = Literal["asked", "unquantized", "adopted"]


@dataclass(frozen=True)
class Label:
    """One answer a slot may give."""

    name: str  # "UNSAFE-S4", "yes"
    text: str  # the checkpoint's answer: "<UNSAFE-S4>", " yes"
    severity: Severity  # controversial: unsafe if strict, else safe
    category: str | None  # its meaning: "crime"
    openai: str | None  # the nearest category of OpenAI's moderation API


@dataclass(frozen=True)
class Piece:
    """A part of the span: static text, content (where `role` is set), or control tokens (where `ids` is)."""

    text: str
    role: Role | None = None
    strip: Strip = "none"  # how the template strips the content
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A token that a slot may choose, with its label (None: a later slot of the field decides) and the next slot."""

    column: int  # of the scores; an index into Manifest.columns
    label: int | None  # index into Manifest.labels
    next: int | None  # index into Tree.slots
    # If no slot follows: the last tokens of the answer, the chosen one first, without a stop token.
    last: tuple[int, ...] = ()


@dataclass(frozen=True)
class Slot:
    """A tree node whose next-token scores decide `field`."""

    node: int
    field: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Tree:
    """Static tokens after the span; a node sees the prefix, the span and its ancestors (parent -1: the span).

    A slot comes after the slots that lead to it. A walk begins at one of the `roots`: one in all, or one per policy.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    slots: tuple[Slot, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class Threshold:
    """A threshold that `guardpass calibrate` chose on labelled data: unsafe from this score on."""

    score: float
    at: str  # the goal: "precision=0.98"
    texts: int
    sha256: str  # of the labelled file


@dataclass(frozen=True)
class ModeSpec:
    """The parts of one mode: `prefix . span . tree`.

    prefix: baked columns, root first. The last `lead` of them are ordinary text, which the span begins with. The ids of
    the span are compared with them, and columns that do not match are masked out.
    """

    prefix: tuple[int, ...]
    lead: int
    span: tuple[Piece, ...]
    tree: Tree
    decides: tuple[str, ...]  # the fields that make a text unsafe
    asked: tuple[str, ...]  # the default policies; empty if the tree has one root
    steps: int  # tokens that a step-by-step decode generates for one policy
    thresholds: dict[str, Threshold] = field(default_factory=dict)  # by field; other fields decide by argmax


@dataclass(frozen=True)
class Prefix:
    """The baked columns: a trie of token ids shared by all modes (parent -1: a root)."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]


@dataclass(frozen=True)
class File:
    """Size in bytes and SHA-256 of a file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Engine:
    """The engine of the model file, and its precision."""

    name: EngineName
    quant: Quant
    device: Device  # the default device


@dataclass(frozen=True)
class Flip:
    """A text whose verdict differs between the quantized guard and the checkpoint's own weights."""

    sha256: str  # of the text, or of text, NUL and response
    mode: Mode
    field: str  # of the root that flipped: a policy if there are several
    reference: float  # margins, positive where safe
    found: float


@dataclass(frozen=True)
class Gate:
    """The result of the gate: this guard compared with the checkpoint's own weights in fp32, on the same texts.

    Each text is judged once, with its response if it has one. Scores are probabilities of unsafe. kl is the divergence
    of the label distributions, in nats, averaged over texts and slots.
    """

    texts: int
    source: str  # "built-in", or the name of the caller's file
    sha256: str  # of that file
    agreement: float  # share of verdicts that are the same
    flips: tuple[Flip, ...]
    mean_score_change: float
    worst_score_change: float
    kl: float
    max_flip_rate: float  # export fails above it
    device: Device = "cpu"  # that ran the guard; the CPU for a CUDA guard if export found no GPU


@dataclass(frozen=True)
class Source:
    """The origin of the weights. files: the checkpoint's files by name."""

    name: str
    revision: str | None
    architecture: str
    files: dict[str, File]
    notes: tuple[str, ...] = ()  # parts of the checkpoint that the guard omits, and choices between conflicting parts


@dataclass(frozen=True)
class Manifest:
    """The content of guard.json, without the checksum."""

    schema: int
    guardpass: str  # the version that wrote it
    name: str
    family: str
    engine: Engine
    context: int  # positions that the checkpoint supports
    vocab: int  # token ids are below this
    labels: tuple[Label, ...]
    columns: tuple[int, ...]  # the V' scored token ids
    prefix: Prefix
    modes: dict[str, ModeSpec]
    reserved: dict[str, int]  # control and verdict tokens, text to id; content never encodes to them
    literals: tuple[str, ...]  # pieces of the guard's prompt, which are suspicious in content
    source: Source
    gate: Gate | None
    ungated: Ungated | None  # the reason if there is no gate
    files: dict[str, File]
