"""llama-cpp-python's low-level API, imported when a GGUF is opened."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

from ...errors import MissingDependency
from ...forks import renewed_in_child
from ..single_thread import SingleThread

_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_Result = TypeVar("_Result")


def library() -> ModuleType:
    """The module llama_cpp. Raises MissingDependency."""
    try:
        import llama_cpp
    except ImportError as error:
        raise MissingDependency(
            f"llama-cpp-python is not installed ({error}); install guardpass[gguf], which builds it from source "
            "in some minutes"
        ) from None
    module: ModuleType = llama_cpp
    return module


def has_tiles(llama: ModuleType) -> bool:
    """Whether llama.cpp would multiply by Intel AMX's tiles, which must be kept from it.

    It configures them once a thread and relies on that ever after, though ONNX Runtime and our own kernels configure
    them too: its products would be wrong. And built by GCC 12 it configures none at all: the first product ends the
    process (illegal instruction; llama.cpp's pull request 26954).
    """
    return b"AMX_INT8 = 1" in llama.llama_print_system_info()


class _State:
    """The process's own."""

    def __init__(self) -> None:
        self.log = threading.Lock()
        self.forked: int | None = None  # the thread that came through a fork
        self.thread = SingleThread("guardpass llama.cpp")
        renewed_in_child(self)

    def after_fork(self) -> None:
        self.log = threading.Lock()
        self.forked = threading.get_ident()


_STATE = _State()


def computed(function: Callable[[], _Result]) -> _Result:
    """The result of a function that makes llama.cpp compute.

    In a forked process the thread that came through the fork still knows OpenMP's threads, which did not, and would
    wait for them for ever. So there another thread calls.
    """
    return _STATE.thread.run(function) if threading.get_ident() == _STATE.forked else function()


@contextmanager
def quiet(llama: ModuleType) -> Iterator[list[str]]:
    """Collect llama.cpp's error lines, which it would print. Its log is the process's: it is given back after."""
    lines: list[str] = []

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, _data: object) -> None:
        if level == _ERROR:
            lines.append(text.decode(errors="replace").strip())

    with _STATE.log:  # else two threads could each put back what the other had set
        before, data = llama.llama_log_callback(), ctypes.c_void_p()
        llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
        llama.llama_log_set(keep, None)
        try:
            yield lines
        finally:
            llama.llama_log_set(before, data)


class AbortFlag:
    """What llama.cpp asks between operators whether to give a decode up.

    It calls back from threads of its own, hundreds of times a pass, and Python would have its global lock to wait for.
    So the function it calls is C's own strlen, on a string that is empty until it is to stop.
    """

    def __init__(self, llama: ModuleType, context: Any) -> None:
        self._said = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        self._asked = llama.ggml_abort_callback(strlen)
        llama.llama_set_abort_callback(context, self._asked, ctypes.addressof(self._said))

    def set(self) -> None:
        """Stop the decode that runs, and all that come."""
        self._said[0] = b"!"

    def clear(self) -> None:
        """Let what comes run."""
        self._said[0] = b"\0"
