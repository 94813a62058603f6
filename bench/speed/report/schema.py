"""The schema of a result: rows of frozen dataclasses. `files.py` reads and writes them as JSON."""

from dataclasses import dataclass
from typing import Literal

SCHEMA = 1

Weights = Literal["twin", "checkpoint", "guard"]  # twin: random weights, so that verdicts mean nothing


@dataclass(frozen=True)
class Environment:
    """Where and with what a row was measured; every row carries it."""

    date: str  # UTC, ISO 8601
    commit: str  # of guardpass, "" where it is no checkout; "+" behind it: changed since
    cpu: str
    flags: tuple[str, ...]  # of the CPU, those that matter to kernels
    memory_gb: float
    cores: int
    affinity: tuple[int, ...]
    governor: str  # "" where the system does not tell
    python: str
    versions: dict[str, str]  # package -> version, of the process that was measured


@dataclass(frozen=True)
class Contender:
    """An engine at one setting, on one subject."""

    engine: str  # "guardpass", or a peer's name
    setting: str  # "int8", "q4_k_m, prefix kept": as a table shows it
    quant: str
    subject: str  # the checkpoint's, the guard's or the twin's name
    weights: Weights
    layers: int | None  # where a twin was cut; None: as published
    threads: int
    prefix_kept: bool  # whether work on the prompt's beginning is kept from one request to the next


@dataclass(frozen=True)
class Summary:
    """Of N samples in ms. An interval is 95 %, from order statistics; None where N cannot carry it."""

    n: int
    mean: float
    stddev: float | None  # of the population they were drawn from
    least: float
    median: float
    median_interval: tuple[float, ...] | None  # low, high
    p95: float | None
    p95_interval: tuple[float, ...] | None
    p99: float | None


@dataclass(frozen=True)
class Latency:
    """Scenario single: the next request when the last ends. Of one content length, called in turn with the others."""

    contender: Contender
    environment: Environment
    mode: str
    content: int  # tokens of the content
    prompt: int  # tokens of the whole prompt
    run: int  # tokens that were run, as far as the engine tells; else `prompt`
    ms: Summary
    samples: tuple[float, ...]  # ms, in the order they were taken
    ratio: float | None  # median over turns of this contender's time to the first one's
    ratio_interval: tuple[float, ...] | None  # low, high
    split: dict[str, float]  # medians in ms: tokenize, pass, rest
    operations: float | None  # of the pass, 2 a weight and token and those of attention; None where unknown
    # Absent from older results, and None without guardpass-kernels.
    peaks: tuple[float, ...] | None = None  # int8 GOP/s from registers, each taken right before the sample
    share: float | None = None  # median over turns: operations over time, the pass's if known, over the peak before it
    share_interval: tuple[float, ...] | None = None  # low, high


@dataclass(frozen=True)
class Cost:
    """What an engine takes before its first verdict and while it runs. None: not measured."""

    contender: Contender
    environment: Environment
    load_s: float  # opening the model
    first_verdict_s: float | None  # from process start to the first verdict
    resident_mb: float  # after the requests
    peak_mb: float
    file_mb: float
    convert_s: float | None  # making the engine's own files from the checkpoint


@dataclass(frozen=True)
class Fidelity:
    """Verdicts on the same prompts beside the checkpoint's own weights in fp32."""

    contender: Contender
    environment: Environment
    texts: int
    agreement: float
    widest_flip: float | None  # fp32's margin, in logits, of the widest; None where nothing flips


@dataclass(frozen=True)
class Rate:
    """Scenario server: Poisson arrivals at a rate, latency counted from the intended send time."""

    contender: Contender
    environment: Environment
    content: int
    rate: float  # requests per second, offered
    seed: int
    served: float  # requests per second, from the first arrival to the last answer
    bound_ms: float | None  # of p95
    held: bool | None  # whether p95 was within the bound
    chosen: bool  # the highest rate that held it
    ms: Summary
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Offline:
    """Scenario offline: all requests at once."""

    contender: Contender
    environment: Environment
    content: int
    requests: int
    seconds: float
    rate: float  # requests per second


@dataclass(frozen=True)
class Peaks:
    """What the machine itself can do, by microbenchmark. GOP/s: 1e9 multiplications and additions a second."""

    environment: Environment
    threads: int
    int8: float | None
    bf16: float | None
    fp32: float | None
    read_gb_s: float
    by: dict[str, str]  # what each was measured with


@dataclass(frozen=True)
class Skipped:
    """A contender that could not run here, and why."""

    environment: Environment  # without the versions of what could not run
    engine: str
    setting: str
    subject: str
    reason: str
    command: str  # that failed, to be tried by hand


Row = Latency | Cost | Fidelity | Rate | Offline | Peaks | Skipped


@dataclass(frozen=True)
class Report:
    """One run. In JSON each kind of row is a list under its own name."""

    schema: int
    command: str
    latency: tuple[Latency, ...] = ()
    cost: tuple[Cost, ...] = ()
    fidelity: tuple[Fidelity, ...] = ()
    rate: tuple[Rate, ...] = ()
    offline: tuple[Offline, ...] = ()
    peaks: tuple[Peaks, ...] = ()
    skipped: tuple[Skipped, ...] = ()
