"""A device "cuda:0" that is the memory of the CPU, for the package's device path on a machine without a GPU.

Tensors made under the mode on "cuda" lie on the CPU and say that they do not. As on a GPU, operators refuse to mix them with tensors of the CPU, and what
would wait for the device raises where torch.cuda.set_sync_debug_mode("error") is set. Calls of the native library are checked (device, stream, addresses
of device memory, inside the device's scope) and then made on the CPU. What this cannot show is order: work that is done late, streams, lifetimes.
"""

import contextlib
import ctypes
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from sdpo import _autograd, _backends, _library, _native
from sdpo._tables import LISTS

DEVICE = torch.device("cuda", 0)
STREAM = 0x5DB0
_SCALARS = ("row_outputs", "metrics", "omega_table")
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
        self._made = {}  # storages by their address: views and what autograd makes of a tensor share it
        self._patches = contextlib.ExitStack()

    def __enter__(self):
        stream = mock.Mock(cuda_stream=STREAM)
        for target, name, value in (
            (torch.cuda, "current_stream", lambda device=None: stream),
            (torch.cuda, "device", self._scope),
            (torch.cuda, "set_sync_debug_mode", self._set_strict),
            (torch.cuda, "is_current_stream_capturing", lambda: False),
            (_backends, "_obstacle", lambda device: None),
            (_library, "run", self._run),
            (_autograd._Loss, "backward", staticmethod(self._inside_backward(_autograd._Loss.backward))),
        ):
            self._patches.enter_context(mock.patch.object(target, name, value))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._patches.close()

    def _inside_backward(self, function):
        """Backward, which PyTorch runs inside a function of its own, where a mode is off; its incoming gradient lies where the loss does."""

        def call(ctx, grad_output):
            if self._pretends(ctx.call.row_outputs):
                grad_output = self._mark(grad_output.clone())
            TorchFunctionMode.__enter__(self)
            try:
                return function(ctx, grad_output)
            finally:
                TorchFunctionMode.__exit__(self, None, None, None)

        return call

    # ---- Tensors

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        tensors = [value for value in _flat((args, list(kwargs.values()))) if isinstance(value, torch.Tensor)]
        there = any(self._pretends(tensor) for tensor in tensors)
        if function in _GETTERS:
            return _GETTERS[function] if there else function(*args, **kwargs)
        if there and self.strict and name in WAITING:
            raise RuntimeError(f"called a synchronizing CUDA operation: {name}")
        if there and name not in MIXING and any(not self._pretends(tensor) and tensor.dim() > 0 for tensor in tensors):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name})")
        goes_there = there
        if name in ("cpu", "cuda", "pin_memory"):
            out, goes_there = args[0], name == "cuda" or (name == "pin_memory" and there)
        else:
            args, kwargs, device = self._without_device(name, args, kwargs)
            out = function(*args, **kwargs)
            goes_there = there if device is None else torch.device(device).type == "cuda"
        if goes_there != there and any(out is tensor for tensor in tensors):
            out = out.clone()  # a move
        return self._mark(out) if goes_there else out

    def _mark(self, out):
        for tensor in _flat(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._made[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def _pretends(self, tensor):
        found = self._made.get(tensor.untyped_storage().data_ptr())
        return found is not None and not found[0].expired()

    def _holds(self, address):
        return any(0 <= address - start < size and not storage.expired() for start, (storage, size) in self._made.items())

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
        if problem.tensors_kind == _native._HOST:
            return self._run_here(function, problem)
        assert self._inside > 0, f"{function} outside of the device's scope"
        for of in ("tensors", "scalars"):
            location = getattr(problem, f"{of}_kind"), getattr(problem, f"{of}_ordinal")
            assert location == (_native._CUDA, 0), f"{function} on another device"
        assert problem.stream == STREAM and problem.threads == 0, f"{function} beside the current stream"
        addresses = {name: getattr(problem, name) for name, _ in problem._fields_ if name.endswith("_data") or name in _SCALARS}
        here = _library.Problem.from_buffer_copy(problem)
        here.tensors_kind = here.scalars_kind = _native._HOST
        here.stream, here.threads = None, 1
        if problem.columns:  # the structs lie on the host, and the lists that they point to do not
            columns = _library.Columns.from_buffer_copy(_library.Columns.from_address(problem.columns))
            for i, column in enumerate(columns):
                addresses[f"column {i}"] = column.data
                assert not column.data or column.location == _native._CUDA, f"{function}: a list that says it is of the host"
                column.location = _native._HOST
            here.columns = ctypes.addressof(columns)
        for name, address in addresses.items():
            assert not address or self._holds(address), f"{function} reaches for memory of the host: {name}"
        self.calls.append(function)
        if problem.options:  # on a device nothing is thrown: the row says so
            options = _library.Options.from_buffer_copy(_library.Options.from_address(problem.options))
            options.non_finite = LISTS["nonFinite"].index("propagate")
            here.options = ctypes.addressof(options)
        self._run_here(function, here)

    def _without_device(self, name, args, kwargs):
        """The arguments for the CPU, and the device that they asked for or None."""
        if kwargs.get("device") is not None:
            return args, {**kwargs, "device": "cpu"}, kwargs["device"]
        if name == "to" and len(args) > 1:
            if isinstance(args[1], (str, torch.device)):
                return (args[0], "cpu", *args[2:]), kwargs, args[1]
            if isinstance(args[1], torch.Tensor):
                return args, kwargs, DEVICE if self._pretends(args[1]) else args[1].device
        return args, kwargs, None


def _flat(value):
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


_GETTERS = {torch.Tensor.device.__get__: DEVICE, torch.Tensor.is_cuda.__get__: True}
