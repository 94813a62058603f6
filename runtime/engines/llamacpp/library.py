"""The low-level API of llama-cpp-python. It is imported when a guard opens a GGUF."""

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
    """Whether llama.cpp would use Intel AMX tiles. AMX must stay disabled in llama.cpp.

    llama.cpp configures the tiles once for each thread and never again. ONNX Runtime and our kernels configure them
    too, so its products would be wrong. A build by GCC 12 configures none, so its first product ends the process
    (illegal instruction; llama.cpp's pull request 26954).
    """
    return b"AMX_INT8 = 1" in llama.llama_print_system_info()


class _State:
    """The state of the process."""

    def __init__(self) -> None:
        self.log = threading.Lock()
        self.forked: int | None = None  # the thread that survived a fork
        self.thread = SingleThread("guardpass llama.cpp")
        renewed_in_child(self)

    def after_fork(self) -> None:
        self.log = threading.Lock()
        self.forked = threading.get_ident()


_STATE = _State()


def computed(function: Callable[[], _Result]) -> _Result:
    """The result of a function that makes llama.cpp compute.

    The thread that survived a fork would wait for ever for OpenMP's threads, which did not. So another thread calls the
    function there.
    """
    return _STATE.thread.run(function) if threading.get_ident() == _STATE.forked else function()


@contextmanager
def quiet(llama: ModuleType) -> Iterator[list[str]]:
    """Collect llama.cpp's error lines instead of printing them. The log is global, and is restored afterwards."""
    lines: list[str] = []

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, _data: object) -> None:
        if level == _ERROR:
            lines.append(text.decode(errors="replace").strip())

    with _STATE.log:  # else two threads could each restore the other's callback
        before, data = llama.llama_log_callback(), ctypes.c_void_p()
        llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
        llama.llama_log_set(keep, None)
        try:
            yield lines
        finally:
            llama.llama_log_set(before, data)


class AbortFlag:
    """The abort callback of llama.cpp, which polls it between operators.

    llama.cpp calls it from its own threads, hundreds of times in a pass, and a Python function would wait for the GIL.
    So the callback is C's strlen, on a string that is empty until a stop.
    """

    def __init__(self, llama: ModuleType, context: Any) -> None:
        self._flag = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        self._callback = llama.ggml_abort_callback(strlen)
        llama.llama_set_abort_callback(context, self._callback, ctypes.addressof(self._flag))

    def set(self) -> None:
        """Abort the running decode and every later one."""
        self._flag[0] = b"!"

    def clear(self) -> None:
        """Let later decodes run."""
        self._flag[0] = b"\0"
