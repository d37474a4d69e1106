"""Which BLAS does NumPy's arithmetic, and how many threads does it use.

    identify_blas()            # BlasInfo(name='openblas', version='0.3.33 ...', threads=2, ...)
    with blas_threads(1):      # restored afterwards
        a @ b

The library is found among those this process has loaded, and asked through ctypes. On Linux only:
elsewhere, and for a library that is not known, the answer is ``unknown`` and nothing is set.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MAPS = Path("/proc/self/maps")

# OpenBLAS is built under several names: prefix for SciPy's wheels, suffix for 64-bit integers.
_OPENBLAS_NAMES = tuple(
    f"{prefix}openblas_{{}}{suffix}"
    for prefix in ("scipy_", "")
    for suffix in ("64_", "", "_64", "64")
)


@dataclass(frozen=True)
class BlasInfo:
    """The BLAS behind NumPy.

    Attributes:
        name: ``openblas``, ``blis``, ``mkl``, ``reference`` or ``unknown``.
        version: what the library says of itself, empty if nothing.
        path: file it was loaded from, empty if not found.
        threads: how many it would use now, 0 if that cannot be asked.
        is_reference: True for Netlib's unoptimised BLAS, many times slower than OpenBLAS.
        controllable: True if ``blas_threads`` can set the threads.
    """

    name: str
    version: str
    path: str
    threads: int
    is_reference: bool
    controllable: bool


@dataclass(frozen=True)
class _Library:
    """Functions of a loaded BLAS."""

    name: str
    path: str
    version: str
    get_threads: Any
    set_threads: Any


def identify_blas() -> BlasInfo:
    """Find out which BLAS this NumPy has loaded. Never raises."""
    library = _find_library()
    if library is not None:
        threads = int(library.get_threads()) if library.get_threads else 0
        return BlasInfo(
            library.name,
            library.version,
            library.path,
            threads,
            library.name == "reference",
            library.set_threads is not None,
        )
    return BlasInfo("unknown", "", "", 0, False, False)


@contextlib.contextmanager
def blas_threads(threads: int) -> Iterator[BlasInfo]:
    """Let the BLAS use ``threads`` threads inside the block, then as many as before.

    The setting belongs to the whole process. A BLAS that cannot be controlled is left alone;
    the BlasInfo that is handed out says so.
    """
    library = _find_library()
    if library is None or library.set_threads is None or library.get_threads is None:
        yield identify_blas()
        return
    before = int(library.get_threads())
    library.set_threads(threads)
    try:
        yield identify_blas()
    finally:
        library.set_threads(before)


def _find_library() -> _Library | None:
    """The BLAS among the loaded libraries; NumPy's own first: SciPy's wheels carry another."""
    paths = loaded_libraries()
    home = str(Path(np.__file__).parent)  # .../numpy, and .../numpy.libs beside it
    for path in sorted(paths, key=lambda p: not p.startswith(home)):
        for kind, open_one in _KINDS.items():
            if kind in Path(path).name.lower() and (library := open_one(path)) is not None:
                return library
    return None


def loaded_libraries(maps: Path = _MAPS) -> list[str]:
    """Paths of the shared libraries in this process, in the order of their addresses."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return []
    paths = (line.split(maxsplit=5)[5] for line in lines if line.count("/") and ".so" in line)
    return list(dict.fromkeys(paths))


def _open_openblas(path: str) -> _Library | None:
    dll = _open(path)
    for name in _OPENBLAS_NAMES:
        set_threads = getattr(dll, name.format("set_num_threads"), None)
        get_threads = getattr(dll, name.format("get_num_threads"), None)
        config = getattr(dll, name.format("get_config"), None)
        if set_threads is not None and get_threads is not None:
            return _Library("openblas", path, _text(config), get_threads, set_threads)
    return None


def _open_blis(path: str) -> _Library | None:
    dll = _open(path)
    set_threads = getattr(dll, "bli_thread_set_num_threads", None)
    get_threads = getattr(dll, "bli_thread_get_num_threads", None)
    if set_threads is None or get_threads is None:
        return None
    set_threads.argtypes, get_threads.restype = [ctypes.c_long], ctypes.c_long
    return _Library(
        "blis",
        path,
        _text(getattr(dll, "bli_info_get_version_str", None)),
        get_threads,
        set_threads,
    )


def _open_mkl(path: str) -> _Library | None:
    dll = _open(path)
    set_threads = getattr(dll, "MKL_Set_Num_Threads", None)
    get_threads = getattr(dll, "MKL_Get_Max_Threads", None)
    if set_threads is None or get_threads is None:
        return None
    return _Library("mkl", path, "", get_threads, set_threads)


def _open_reference(path: str) -> _Library | None:
    """``libblas.so.3``: Debian puts whichever BLAS was chosen there, so look at what it exports."""
    for open_one in (_open_openblas, _open_blis, _open_mkl):
        library = open_one(str(Path(path).resolve()))
        if library is not None:
            return library
    if "atlas" in str(Path(path).resolve()).lower():
        return None
    return _Library("reference", path, "", None, None)


_KINDS = {
    "openblas": _open_openblas,
    "libblis": _open_blis,
    "mkl_rt": _open_mkl,
    "libblas": _open_reference,
}


def _open(path: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(path)
    except OSError:
        return None


def _text(function: Any) -> str:
    """What a ``char *f(void)`` returns."""
    if function is None:
        return ""
    function.restype = ctypes.c_char_p
    return (function() or b"").decode("ascii", "replace").strip()
