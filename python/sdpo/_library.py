"""Finds and loads libsdpo, and calls it: the C interface of native/c/sdpo.h over ctypes."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any, Iterator, List, Optional, Tuple

from ._errors import NonFiniteError, SdpoError
from ._tables import LISTS, OPTIONS, snake

ABI_VERSION = 2
NAME = "libsdpo.so"


class Location(ctypes.Structure):
    _fields_ = [("kind", c_int32), ("ordinal", c_int32)]


class Tensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("row_stride", c_int64), ("dtype", c_int32), ("reserved", c_int32)]


class Column(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("value", c_double), ("dtype", c_int32), ("location", c_int32)]


Columns = Column * len(LISTS["rowInputs"])


def _option_fields() -> Iterator[Tuple[str, Any]]:
    """The fields of sdpo_options follow the list of options; a choice is an int32, a number a double."""
    types = {}
    for row in OPTIONS.values():
        for field in row.get("fields", [row["name"]]):
            types[field] = c_int32 if row["type"] in ("enum", "boolean") else c_double
    yield "struct_size", c_size_t
    for name in LISTS["options"]:
        yield snake(name), types[name]


class Options(ctypes.Structure):
    _fields_ = list(_option_fields())


def _flat(name: str, struct: Any) -> List[Tuple[str, Any]]:
    return [(f"{name}_{field}", kind) for field, kind in struct._fields_]


class Problem(ctypes.Structure):
    """sdpo_problem with the fields of its structs side by side, so that one call of the constructor fills all of it."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("rows", c_int64),
        ("size", c_int64),
        *(field for branch in ("chosen", "rejected") for name in ("policy", "reference", "target", "gradient") for field in _flat(f"{branch}_{name}", Tensor)),
        *_flat("element_weights", Tensor),
        *_flat("tensors", Location),
        *_flat("scalars", Location),
        ("columns", c_void_p),
        ("column_count", c_int32),
        ("threads", c_int32),
        ("omega_table", c_void_p),
        ("omega_count", c_int64),
        ("row_outputs", c_void_p),
        ("metrics", c_void_p),
        ("options", c_void_p),
        ("denominator", c_double),
        ("gradient_scale", c_double),
        ("cross", c_int32),
        ("reserved", c_int32),
        ("stream", c_void_p),
        *_flat("rejected_element_weights", Tensor),
    ]


class Failure(ctypes.Structure):
    _fields_ = [("row", c_int64), ("element", c_int64), ("branch", c_int32), ("tensor", c_int32)]


_PASS = (c_int, [POINTER(Problem), POINTER(Failure)])
_SIGNATURES = {
    "sdpo_version": (c_char_p, []),
    "sdpo_abi_version": (c_int, []),
    "sdpo_has_cuda": (c_int, []),
    "sdpo_instruction_set": (c_char_p, []),
    "sdpo_default_threads": (c_int, []),
    "sdpo_last_error": (c_char_p, []),
    "sdpo_name": (c_char_p, [c_char_p, c_int]),
    "sdpo_options_init": (c_int, [POINTER(Options), c_size_t]),
    "sdpo_problem_init": (c_int, [POINTER(Problem), c_size_t]),
    "sdpo_columns_init": (c_int, [POINTER(Column), c_int32]),
    "sdpo_reserve": (c_int, [POINTER(Problem)]),
    "sdpo_evaluate": _PASS,
    "sdpo_moments": _PASS,
    "sdpo_objective": _PASS,
    "sdpo_gradients": _PASS,
    "sdpo_combine": (
        c_int,
        [c_int64, c_int64, c_void_p, POINTER(Tensor), c_void_p, POINTER(Tensor), POINTER(Tensor), Location, c_void_p, c_int32],
    ),
    "sdpo_noise": (c_int, [c_uint64, c_uint64, c_int64, c_void_p, c_int32, Location, c_void_p, c_int32]),
}

# Codes of the statuses that are not about a row.
_CODES = {-1: "ERR_SDPO_INVALID_ARG_VALUE", 2: "ERR_SDPO_ELEMENT_WEIGHTS", 3: "ERR_SDPO_ABORTED", 4: "ERR_SDPO_OUT_OF_MEMORY", 5: "ERR_SDPO_DEVICE"}
_NON_FINITE = 1


def candidates() -> List[Tuple[str, str]]:
    """Where the library is looked for, in order: what the place is, and the path. SDPO_LIBRARY, where set, is the only place."""
    if os.environ.get("SDPO_LIBRARY"):
        return [("SDPO_LIBRARY", os.environ["SDPO_LIBRARY"])]
    here = os.path.dirname(os.path.abspath(__file__))
    checkout = os.path.dirname(os.path.dirname(here))
    places = []
    if os.path.exists(os.path.join(checkout, "native", "c", "sdpo.h")):  # else an unrelated folder could be taken for a checkout
        places.append(("the checkout's build", os.path.join(checkout, "build", "Release", NAME)))
        places.append(("the checkout's CMake build", os.path.join(checkout, "build", NAME)))
    # An editable install has the library in another folder of the package than its sources.
    folders = [here, *getattr(sys.modules[__package__], "__path__", [])]
    places.extend(("this package", os.path.join(folder, NAME)) for folder in dict.fromkeys(folders))
    return places


def _load() -> ctypes.CDLL:
    places = candidates()
    failures = []
    for place, path in places:
        if not os.path.exists(path):
            failures.append(f"  {path} ({place}): no such file")
            continue
        try:
            library = ctypes.CDLL(path)
            _declare(library)
            _check(library, path)
            library.has_cuda = bool(library.sdpo_has_cuda())  # read where torch.compile looks on, which cannot call functions of a library
            return library
        except (OSError, AttributeError) as error:
            failures.append(f"  {path} ({place}): {error}")
    if not os.environ.get("SDPO_LIBRARY"):
        failures.append("  SDPO_LIBRARY: not set")
    tried = "\n".join(failures)
    raise SdpoError(
        "ERR_SDPO_NO_BINARY",
        f"Expected {NAME} at one of the places below, received none that could be loaded:\n{tried}\n"
        "Install a wheel made for this platform, build it with `pip install .` (or `npm run build:native`) in a checkout, or set SDPO_LIBRARY to its path.",
    )


def _declare(library: ctypes.CDLL) -> None:
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


def _check(library: ctypes.CDLL, path: str) -> None:
    """Refuses a library that was built from other sources than this package: the two would misread each other's arrays."""
    found = library.sdpo_abi_version()
    problem = f"ABI version {found}" if found != ABI_VERSION else None
    for name, expected in LISTS.items():
        if name == "rowChecks":  # no closed list of its own: what each row input has to be
            continue
        received = []
        while True:
            entry = library.sdpo_name(name.encode(), len(received))
            if entry is None:
                break
            received.append(entry.decode())
        if problem is None and tuple(received) != expected:
            problem = f"the list '{name}' as [{', '.join(received)}]"
    if problem is not None:
        raise SdpoError(
            "ERR_SDPO_NO_BINARY",
            f"Expected {path} to be built from the sources of this package, received {problem}; "
            "build it again (`pip install .`, or `npm run build:native` in a checkout)",
        )


_lock = threading.Lock()
_library: Optional[ctypes.CDLL] = None
_missing: Optional[SdpoError] = None


def library() -> ctypes.CDLL:
    """The loaded library; an SdpoError ERR_SDPO_NO_BINARY says where it was looked for."""
    global _library
    if _library is None:
        with _lock:
            if _library is None:
                _library = _load()
    return _library


def available() -> bool:
    """Whether there is a library at all. Where there is none, no place is looked at a second time."""
    global _missing
    if _library is None and _missing is None:
        try:
            library()
        except SdpoError as error:
            _missing = error
    return _library is not None


def why_not() -> str:
    """Why there is no library, as its error says."""
    return "" if _missing is None else str(_missing)


def check(status: int, failure: Optional[Failure] = None) -> None:
    """Turns a status into the error it stands for. Called on the thread of the call, since the text belongs to it."""
    if status == 0:
        return
    if status == _NON_FINITE and failure is not None:
        tensor = snake(LISTS["failureTensors"][failure.tensor])
        raise NonFiniteError(failure.row, "rejected" if failure.branch else "chosen", tensor, failure.element)
    raise SdpoError(_CODES.get(status, "ERR_SDPO_INTERNAL"), library().sdpo_last_error().decode())


def run(function: str, problem: Problem) -> None:
    failure = Failure()
    status = getattr(library(), function)(problem, failure)
    if status != 0:
        check(status, failure)
