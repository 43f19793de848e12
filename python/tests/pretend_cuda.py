"""A device "cuda:0" that is the memory of the CPU, for the package's device path on a machine without a GPU.

Tensors made under the mode on "cuda" lie on the CPU and say that they do not. As on a GPU, operators refuse to mix them with tensors of the CPU, and what
would wait for the device raises where torch.cuda.set_sync_debug_mode("error") is set. Calls of the native library are checked (device, stream, addresses
of device memory, inside the device's scope) and then made on the CPU. What this cannot show is order: work that is done late, streams, lifetimes.
"""

import contextlib
import ctypes
import weakref
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from sdpo import _library, _native

DEVICE = torch.device("cuda", 0)
STREAM = 0x5DB0
WAITING = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "numpy", "nonzero", "cpu", "is_nonzero", "equal", "allclose"}
# What takes tensors of two devices, or looks at a tensor without computing with it.
MIXING = {"copy_", "to", "type", "pin_memory", "cuda", "cpu", "__get__", "__set__", "data_ptr", "storage", "backward", "grad"}


class PretendCuda(TorchFunctionMode):
    """Use as a context; `calls` are the names of the native functions that were called."""

    def __init__(self):
        super().__init__()
        self._run_here = _library.run
        self.calls = []
        self.strict = False
        self._inside = 0
        self._made = {}
        self._patches = contextlib.ExitStack()

    def __enter__(self):
        stream = mock.Mock(cuda_stream=STREAM)
        for target, name, value in (
            (torch.cuda, "current_stream", lambda device=None: stream),
            (torch.cuda, "device", self._scope),
            (torch.cuda, "set_sync_debug_mode", self._set_strict),
            (_library, "run", self._run),
            (_native, "gradients", self._also_inside(_native.gradients)),
        ):
            self._patches.enter_context(mock.patch.object(target, name, value))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._patches.close()

    def _also_inside(self, function):
        """A step of backward, which PyTorch runs inside a function of its own, where a mode is off."""

        def call(*args):
            TorchFunctionMode.__enter__(self)
            try:
                return function(*args)
            finally:
                TorchFunctionMode.__exit__(self, None, None, None)

        return call

    # ---- Tensors

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        tensors = [value for value in _flat((args, list(kwargs.values()))) if isinstance(value, torch.Tensor)]
        there = any(_pretends(tensor) for tensor in tensors)
        if function in _GETTERS:
            return _GETTERS[function] if there else function(*args, **kwargs)
        if there and self.strict and name in WAITING:
            raise RuntimeError(f"called a synchronizing CUDA operation: {name}")
        if there and name not in MIXING and any(not _pretends(tensor) and tensor.dim() > 0 for tensor in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name})")
        goes_there = there
        if name in ("cpu", "cuda", "pin_memory"):
            out, goes_there = args[0], name == "cuda" or (name == "pin_memory" and there)
        else:
            args, kwargs, device = _without_device(name, args, kwargs)
            out = function(*args, **kwargs)
            goes_there = there if device is None else torch.device(device).type == "cuda"
        if goes_there != there and any(out is tensor for tensor in tensors):
            out = out.clone()  # a move
        return self._mark(out) if goes_there else out

    def _mark(self, out):
        for tensor in _flat(out):
            if isinstance(tensor, torch.Tensor):
                tensor._pretends = True
                self._made[id(tensor)] = weakref.ref(tensor)
        return out

    def _holds(self, address):
        for reference in self._made.values():
            tensor = reference()
            if tensor is not None:
                storage = tensor.untyped_storage()
                if 0 <= address - storage.data_ptr() < max(storage.nbytes(), 1):
                    return True
        return False

    # ---- The library

    @contextlib.contextmanager
    def _scope(self, device):
        assert torch.device(device).type == "cuda", device
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def _set_strict(self, mode):
        self.strict = mode == "error"

    def _run(self, function, problem):
        if problem.tensors.kind == _native._HOST:
            return self._run_here(function, problem)
        assert self._inside > 0, f"{function} outside of the device's scope"
        for location in (problem.tensors, problem.scalars):
            assert (location.kind, location.ordinal) == (_native._CUDA, 0), f"{function} on another device"
        assert problem.stream == STREAM and problem.threads == 0, f"{function} beside the current stream"
        addresses = [problem.row_inputs, problem.row_outputs, problem.metrics]
        for branch in (problem.chosen, problem.rejected):
            addresses += [branch.policy.data, branch.reference.data, branch.target.data, branch.gradient.data]
        for address in addresses:
            assert not address or self._holds(address), f"{function} reaches for memory of the host"
        self.calls.append(function)
        here = _library.Problem.from_buffer_copy(problem)
        here.tensors = here.scalars = _library.Location(_native._HOST, 0)
        here.stream, here.threads = None, 1
        if problem.options:  # on a device nothing is thrown: the row says so
            options = type(problem.options.contents).from_buffer_copy(problem.options.contents)
            options.non_finite = _native.LISTS["nonFinite"].index("propagate")
            here.options = ctypes.pointer(options)
        self._run_here(function, here)


def _pretends(tensor):
    return getattr(tensor, "_pretends", False)


def _without_device(name, args, kwargs):
    """The arguments for the CPU, and the device that they asked for or None."""
    if kwargs.get("device") is not None:
        return args, {**kwargs, "device": "cpu"}, kwargs["device"]
    if name == "to" and len(args) > 1:
        if isinstance(args[1], (str, torch.device)):
            return (args[0], "cpu", *args[2:]), kwargs, args[1]
        if isinstance(args[1], torch.Tensor):
            return args, kwargs, DEVICE if _pretends(args[1]) else args[1].device
    return args, kwargs, None


def _flat(value):
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


_GETTERS = {torch.Tensor.device.__get__: DEVICE, torch.Tensor.is_cuda.__get__: True}
