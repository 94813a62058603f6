"""guard.json: all that passes from export to runtime."""

from dataclasses import dataclass, field
from typing import Literal

SCHEMA = 4
MANIFEST = "guard.json"

# "through" is "right", and where nothing is left of the content, of the text before it too: a template that trims
# a whole message does so.
Strip = Literal["none", "left", "right", "both", "through"]
Severity = Literal["safe", "controversial", "unsafe"]
Role = Literal["prompt", "response"]
EngineName = Literal["onnx", "native", "llamacpp"]
# Of the ONNX engine (int8 and int4 of native too; fp16, and bf16 below, on CUDA), then of llama.cpp; "other" is what
# else an adopted GGUF may hold.
Quant = Literal[
    "fp32", "int8", "int4", "fp16", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "other"
]
Device = Literal["cpu", "cuda"]
Mode = Role  # a mode is named after the last role it judges
# Why a guard has no gate: asked for, nothing was quantized, or no weights to compare with (an adopted GGUF).
Ungated = Literal["asked", "unquantized", "adopted"]


@dataclass(frozen=True)
class Label:
    """One answer a slot may give."""

    name: str  # "UNSAFE-S4", "yes"
    text: str  # as the checkpoint would write it: "<UNSAFE-S4>", " yes"
    severity: Severity  # a controversial answer is unsafe to a strict reader, and safe to a loose one
    category: str | None  # what it means, "crime"
    openai: str | None  # the nearest category of OpenAI's moderation API


@dataclass(frozen=True)
class Piece:
    """A part of the span: static text, content (where `role` is set), or control tokens (where `ids` is)."""

    text: str
    role: Role | None = None
    strip: Strip = "none"  # of content, as the template does it
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A token that a slot may choose: the label it says (None: a later slot of the field tells), and what follows."""

    column: int  # of the scores, an index into Manifest.columns
    label: int | None  # index into Manifest.labels
    next: int | None  # index into Tree.slots
    # Where no slot follows, the answer's last tokens, the chosen one first. A token that stops a decode is not shown.
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

    Slots come after the slots that lead to them. `roots` are those where a walk begins: one, or one per policy.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    slots: tuple[Slot, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class Threshold:
    """Where `guardpass calibrate` put the line on labelled data: unsafe from this score on."""

    score: float
    at: str  # what it was chosen for: "precision=0.98"
    texts: int
    sha256: str  # of the labelled file


@dataclass(frozen=True)
class ModeSpec:
    """How one mode is put together: `prefix . span . tree`.

    `prefix` lists baked columns, root first. The last `lead` of them are ordinary text that the span begins
    with; the span's own ids are matched against those, and columns that do not match are masked out.
    """

    prefix: tuple[int, ...]
    lead: int
    span: tuple[Piece, ...]
    tree: Tree
    decides: tuple[str, ...]  # the fields that make a text unsafe
    asked: tuple[str, ...]  # the policies judged where none are named; empty where the tree has one root
    steps: int  # tokens a step-by-step decode would write to say as much, of one policy
    thresholds: dict[str, Threshold] = field(default_factory=dict)  # by field; a field without one goes by argmax


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
    """What runs the model file, and what is in it."""

    name: EngineName
    quant: Quant
    device: Device  # where it runs if the caller names none


@dataclass(frozen=True)
class Flip:
    """A text that the quantized guard judged otherwise than the checkpoint's own weights."""

    sha256: str  # of the text, or of text, NUL and response
    mode: Mode
    field: str  # of the root that flipped, which is a policy where there are several
    reference: float  # margins, positive where safe
    found: float


@dataclass(frozen=True)
class Gate:
    """What the gate measured at export: this guard beside the checkpoint's own weights in fp32, on the same texts.

    Each text is judged once, with its response where it has one. Scores are probabilities of unsafe; kl is of the
    labels' distribution, in nats, mean over texts and slots.
    """

    texts: int
    source: str  # "built-in", or the name of the caller's file
    sha256: str  # of that file
    agreement: float  # share of verdicts that are the same
    flips: tuple[Flip, ...]
    mean_score_change: float
    worst_score_change: float
    kl: float
    max_flip_rate: float  # more flips would have failed the export
    device: Device = "cpu"  # what ran the guard, which for one of CUDA is the CPU where export found no GPU


@dataclass(frozen=True)
class Source:
    """Where the weights came from. `files` maps the checkpoint's file names to what they held."""

    name: str
    revision: str | None
    architecture: str
    files: dict[str, File]
    notes: tuple[str, ...] = ()  # what the checkpoint holds and the guard does not, and which of two the guard took


@dataclass(frozen=True)
class Manifest:
    """The content of guard.json, less the seal that protects it."""

    schema: int
    guardpass: str  # version that wrote it
    name: str
    family: str
    engine: Engine
    context: int  # positions the checkpoint was made for
    vocab: int  # token ids are below this
    labels: tuple[Label, ...]
    columns: tuple[int, ...]  # the token ids that are scored: V' of them
    prefix: Prefix
    modes: dict[str, ModeSpec]
    reserved: dict[str, int]  # control and verdict tokens, text to id: never among content ids
    literals: tuple[str, ...]  # texts that mark the guard's prompt; suspicious inside content
    source: Source
    gate: Gate | None
    ungated: Ungated | None  # why there is no gate
    files: dict[str, File]
