"""llama-cpp-python's low-level API, imported when a GGUF is opened."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ..errors import MissingDependency

_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_LOG = threading.Lock()


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


@contextmanager
def quiet(llama: ModuleType) -> Iterator[list[str]]:
    """Collect llama.cpp's error lines, which it would print. Its log is the process's: it is given back after."""
    lines: list[str] = []

    @llama.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, _data: object) -> None:
        if level == _ERROR:
            lines.append(text.decode(errors="replace").strip())

    with _LOG:  # else two threads could each put back what the other had set
        before, data = llama.llama_log_callback(), ctypes.c_void_p()
        llama.llama_log_get(ctypes.byref(before), ctypes.byref(data))
        llama.llama_log_set(keep, None)
        try:
            yield lines
        finally:
            llama.llama_log_set(before, data)
