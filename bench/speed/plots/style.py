"""The style of plots: how contenders look, and how a plot is made and written as PNG and SVG."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardpass.errors import InputError

from ..report.schema import Contender, Environment
from ..report.subjects import OURS, Subject, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's palette (2008), which colour-blind readers tell apart; its vermillion is guardpass's alone.
_OURS, GREY = "#D55E00", "#666666"
_PEERS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8A6D3B")
_MARKERS = "osD^vP*X"
_TELLING = ("amx_int8", "avx512_vnni", "avx_vnni", "avx2", "i8mm", "asimddp")  # the fastest first
_DPI = 130


@dataclass(frozen=True)
class Look:
    """One colour an engine, one marker a setting; dashed where nothing of the prompt is kept between requests."""

    label: str
    color: str
    marker: str = ""
    dashed: bool = False
    ours: bool = False

    def line(self) -> dict[str, Any]:
        """Keywords of Axes.plot."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markersize": 6 if self.ours else 5,
            "linestyle": "--" if self.dashed else "-",
            "linewidth": 2.4 if self.ours else 1.3,
            "zorder": 4 if self.ours else 3,
        }


def looks(contenders: Sequence[Contender]) -> dict[Contender, Look]:
    """In the order of the report, so that an engine at a setting looks alike in all its pictures."""
    engines = list(dict.fromkeys(contender.engine for contender in contenders if contender.engine != OURS))
    styles: dict[Contender, Look] = {}
    for contender in contenders:
        ours = contender.engine == OURS
        color = _OURS if ours else _PEERS[engines.index(contender.engine) % len(_PEERS)]
        settings = list(dict.fromkeys(other.setting for other in contenders if other.engine == contender.engine))
        marker = _MARKERS[settings.index(contender.setting) % len(_MARKERS)]
        styles[contender] = Look(plain(name_of(contender)), color, marker, not contender.prefix_kept, ours)
    return styles


def plain(text: str) -> str:
    """What the font has letters for."""
    return text.encode("ascii", "replace").decode()


@contextmanager
def picture(path: Path, title: str, subject: Subject, environment: Environment, x: str, y: str) -> Iterator["Axes"]:
    """Axes to draw on, written to `path` with .png and .svg behind it. Raises InputError where they cannot be."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Names are no formulas; SVG keeps text as text, and is the same for the same report.
    settings: dict[Any, Any] = {
        "text.parse_math": False,
        "text.usetex": False,
        "svg.fonttype": "none",
        "svg.hashsalt": OURS,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=(10, 6), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=13, fontweight="bold")
        axes = figure.add_subplot()
        about = f"{plain(subject.title)}\n{_where(environment)}"
        axes.set_title(about, loc="left", fontsize=8.5, color=GREY, pad=10, linespacing=1.5)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.25, linewidth=0.6)
        yield axes
        try:
            figure.savefig(f"{path}.svg", format="svg", metadata={"Date": None})
            figure.savefig(f"{path}.png", format="png")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; choose another --plots") from None


def _where(environment: Environment) -> str:
    flag = next((f", {flag}" for flag in _TELLING if flag in environment.flags), "")
    commit = f" {environment.commit[:8]}" if environment.commit else ""
    return plain(f"{environment.cpu}, {environment.cores} cores{flag}; guardpass{commit}, {environment.date[:10]}")


def plain_ticks(axis: "Axis", ticks: Sequence[float] | None = None) -> None:
    """Numbers as they are read, not powers of ten, on a logarithmic axis; at `ticks` alone where they are given."""
    from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    low, high = axis.get_view_interval()
    if ticks is not None:
        axis.set_major_locator(FixedLocator(ticks))
    elif high < 4 * low:
        axis.set_major_locator(MaxNLocator(6))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 5, 7)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
