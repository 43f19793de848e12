"""Finds and loads libsdpo, and calls it: the C interface of native/c/sdpo.h over ctypes."""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from typing import List, Optional, Tuple

from ._errors import NonFiniteError, SdpoError
from ._tables import LISTS, snake

ABI_VERSION = 1
NAME = "libsdpo.so"


class Location(ctypes.Structure):
    _fields_ = [("kind", c_int32), ("ordinal", c_int32)]


class Tensor(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("row_stride", c_int64), ("dtype", c_int32), ("reserved", c_int32)]


class Branch(ctypes.Structure):
    _fields_ = [("policy", Tensor), ("reference", Tensor), ("target", Tensor), ("gradient", Tensor)]


class Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("objective", c_int32),
        ("link", c_int32),
        ("pair_weight", c_int32),
        ("weight_ratio", c_int32),
        ("sft_scope", c_int32),
        ("kl_scope", c_int32),
        ("non_finite", c_int32),
        ("weight_gradient", c_int32),
        ("sum_weight", c_int32),
        ("sum_psi", c_int32),
        ("beta", c_double),
        ("label_smoothing", c_double),
        ("sft_weight", c_double),
        ("kl_weight", c_double),
        ("safeguard", c_double),
        ("dmpo_alpha", c_double),
        ("mapo_scale", c_double),
        ("mapo_steps", c_double),
    ]


# In the order in which a list of plain numbers holds the options; such a list also fits through a registered custom operator.
ENCODED_OPTIONS = tuple(name for name, _ in Options._fields_[1:])


class Problem(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("rows", c_int64),
        ("size", c_int64),
        ("chosen", Branch),
        ("rejected", Branch),
        ("element_weights", Tensor),
        ("tensors", Location),
        ("scalars", Location),
        ("row_inputs", c_void_p),
        ("row_outputs", c_void_p),
        ("metrics", c_void_p),
        ("options", POINTER(Options)),
        ("denominator", c_double),
        ("gradient_scale", c_double),
        ("threads", c_int32),
        ("cross", c_int32),
        ("stream", c_void_p),
    ]


class Failure(ctypes.Structure):
    _fields_ = [("row", c_int64), ("element", c_int64), ("branch", c_int32), ("tensor", c_int32)]


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
    "sdpo_evaluate": (c_int, [POINTER(Problem), POINTER(Failure)]),
    "sdpo_reserve": (c_int, [POINTER(Problem)]),
    "sdpo_moments": (c_int, [POINTER(Problem), POINTER(Failure)]),
    "sdpo_objective": (c_int, [POINTER(Problem), POINTER(Failure)]),
    "sdpo_gradients": (c_int, [POINTER(Problem), POINTER(Failure)]),
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
    places.append(("this package", os.path.join(here, NAME)))
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
            return library
        except (OSError, AttributeError) as error:
            failures.append(f"  {path} ({place}): {error}")
    if not os.environ.get("SDPO_LIBRARY"):
        failures.append("  SDPO_LIBRARY: not set")
    tried = "\n".join(failures)
    raise SdpoError(
        "ERR_SDPO_NO_BINARY",
        f"Expected {NAME} at one of the places below, received none that could be loaded:\n{tried}\n"
        "Build it in a checkout with `npm ci` (or `npm run build:native`), install a wheel made for this platform, or set SDPO_LIBRARY to its path.",
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
            f"Expected {path} to be built from the sources of this package, received {problem}; build it again with `npm run build:native`",
        )


_lock = threading.Lock()
_library: Optional[ctypes.CDLL] = None


def library() -> ctypes.CDLL:
    """The loaded library; an SdpoError ERR_SDPO_NO_BINARY says where it was looked for."""
    global _library
    if _library is None:
        with _lock:
            if _library is None:
                _library = _load()
    return _library


def version() -> str:
    return library().sdpo_version().decode()


def new_problem() -> Problem:
    problem = Problem()
    check(library().sdpo_problem_init(ctypes.byref(problem), ctypes.sizeof(problem)))
    return problem


def new_options() -> Options:
    options = Options()
    check(library().sdpo_options_init(ctypes.byref(options), ctypes.sizeof(options)))
    return options


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
    check(getattr(library(), function)(ctypes.byref(problem), ctypes.byref(failure)), failure)
