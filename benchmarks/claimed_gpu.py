"""A GPU that is only claimed: tensors on `cuda` without CUDA, which notes where a program would wait for it.

Tensors on `cuda` are fake ones (`torch._subclasses.fake_tensor`): they have shapes, types and a device and no values,
and operands on two devices are refused as on a GPU. Tensors on the CPU are real and computed. Where a program asks for
what the GPU has computed (a number, a copy on the host, a shape that depends on values) the wait is noted with its
place in the code, and it gets something plausible, so that it goes on and shows its other waits too.

A CPU build of torch does not let autograd record what is on `cuda`; `claim` changes that for this process, which should
do nothing else.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.cuda.amp
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_flatten

aten = torch.ops.aten
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_CUDA, _LAZY = 1, 17
"""Numbers of device types in torch's C++."""
_OF_VALUES = {
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "is_nonzero",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten._linalg_check_errors.default: "check of a factorisation",
}
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
_DOUBTS = (aten.gt, aten.lt, aten.ne)
"""A check asks by these whether something is wrong: it is answered that nothing is."""


@dataclass(frozen=True)
class Wait:
    """A place at which a program waits for the GPU, or copies between it and the host.

    Attributes:
        what: the operation.
        where: `file:line` of the innermost frame in the package that is watched.
        waits: whether the host stands still; a copy need not make it.
    """

    what: str
    where: str
    waits: bool = True


class ClaimedGpu(FakeTensorMode):
    """Inside, tensors on `cuda` are fake and those on the CPU real.

    Args:
        package: folder of the code whose lines are named.

    Attributes:
        noted: the waits and copies so far.
    """

    def __init__(self, package: Path) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.package, self.noted = str(package), list[Wait]()

    @property
    def avoid_device_init(self) -> bool:
        """As in torch: what is made on `cuda` from values goes there by a copy that can be seen."""
        return True

    def note(self, what: str, *, waits: bool = True) -> None:
        """Take note of a wait or a copy, with the place of whoever asked."""
        frame: Any = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(self.package):
            frame = frame.f_back
        where = "" if frame is None else f"{Path(frame.f_code.co_filename).relative_to(self.package)}:{frame.f_lineno}"
        self.noted.append(Wait(what, where, waits))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As in torch: every operation comes by here."""
        kwargs = kwargs or {}
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        target = kwargs.get("device")
        to_gpu = target is not None and torch.device(target).type == "cuda"
        if not to_gpu and not any(isinstance(value, FakeTensor) for value in tensors):
            return func(*args, **kwargs)
        if any(value.device.type == "cuda" for value in tensors):
            if (answer := self._read(func, args, kwargs)) is not None:
                return answer
        elif func is aten._to_copy.default and to_gpu:
            self._sent(tensors[0], kwargs.get("non_blocking", False))
            return self._made(tensors[0].shape, kwargs.get("dtype") or tensors[0].dtype)
        if func in _INDEXING:
            args = self._indexed(args)
        found = super().__torch_dispatch__(func, types, args, kwargs)
        if isinstance(found, FakeTensor) and getattr(func, "overloadpacket", None) in _DOUBTS:
            found.doubt = True  # type: ignore[attr-defined]
        return found

    def _made(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor on the GPU, from inside an operation."""
        how = {"dtype": dtype, "device": CUDA}
        made: Tensor = super().__torch_dispatch__(aten.empty.memory_format, (), (list(shape),), how)
        return made

    def _read(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What the host gets that asks the GPU for values; None where it does not."""
        if func is aten._local_scalar_dense.default:
            self.note("item")
            value = args[0]
            return (
                not getattr(value, "doubt", False)
                if value.dtype == torch.bool
                else torch.ones((), dtype=value.dtype).item()
            )
        if func is aten._to_copy.default and torch.device(kwargs.get("device") or CUDA).type == "cpu":
            self.note("copy to the host")
            return _plausible(args[0]).to(kwargs.get("dtype") or args[0].dtype)
        if func is aten.copy_.default and args[0].device.type != args[1].device.type:
            if args[0].device.type == "cuda":
                self._sent(args[1], bool(args[2:] and args[2]))
                return args[0]
            if getattr(args[0], "pinned", False) and args[2:] and args[2]:
                self.note("numbers sent to the host", waits=False)
                return args[0].zero_()
            self.note("copy to the host")
            return args[0].copy_(_plausible(args[1]))
        if func in _OF_VALUES and kwargs.get("output_size") is None:
            self.note(_OF_VALUES[func])
            if func is aten.nonzero.default:
                return self._made([args[0].numel(), args[0].ndim], torch.int64)
            if func is aten.equal.default:
                return True
        return None

    def _sent(self, value: Tensor, non_blocking: bool) -> None:
        """A copy to the GPU: the host waits for it unless the memory is pinned and it says that it need not."""
        scalar = value.ndim == 0  # goes with the launch where an operation takes it, but not by a copy
        quiet = non_blocking and getattr(value, "pinned", False)
        self.note("scalar to the GPU" if scalar else "copy to the GPU", waits=not quiet)

    def _indexed(self, args: Sequence[Any]) -> list[Any]:
        """Indices on the GPU as they are, of masks all rows, with what the host does for them noted."""
        places = []
        for index in args[1]:
            if isinstance(index, Tensor) and index.device.type == "cpu" and args[0].device.type == "cuda":
                self.note("indices of the host")
                index = self._made(index.shape, index.dtype)
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                self.note("mask as index")
                places += [self._made([index.numel()], torch.int64)] * index.ndim
            else:
                places.append(index)
        return [args[0], places, *args[2:]]


def _plausible(value: Tensor) -> Tensor:
    """Of a fake tensor's shape and type: rows in order, ones, or yes."""
    if value.dtype.is_floating_point or value.dtype == torch.bool:
        return torch.ones(value.shape, dtype=value.dtype)
    return torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape)


class _Event:
    """An event that the GPU has always come to."""

    gpu: ClaimedGpu

    def __init__(self, enable_timing: bool = False) -> None:
        self.timing = enable_timing

    def record(self, stream: object = None) -> None:
        """As in torch."""

    def wait(self, stream: object = None) -> None:
        """As in torch."""

    def query(self) -> bool:
        """As in torch."""
        return True

    def synchronize(self) -> None:
        """As in torch; one that was recorded a step ago is no wait that anybody feels."""
        self.gpu.note("event", waits=False)

    def elapsed_time(self, end: object) -> float:
        """As in torch."""
        return 1.0


class _Stream:
    """The stream of a GPU."""

    def __init__(self, gpu: ClaimedGpu) -> None:
        self.gpu, self.device = gpu, CUDA

    def synchronize(self) -> None:
        """As in torch."""
        self.gpu.note("synchronisation")

    def wait_stream(self, stream: object) -> None:
        """As in torch."""

    def wait_event(self, event: object) -> None:
        """As in torch."""

    def record_event(self, event: object = None) -> object:
        """As in torch."""
        return event or _Event()


@contextmanager
def claim(package: Path) -> Iterator[ClaimedGpu]:
    """A GPU inside, whatever this machine and this build of torch have."""
    _let_autograd_record()
    gpu = ClaimedGpu(package)
    event = type("Event", (_Event,), {"gpu": gpu})
    state = torch.zeros(16, dtype=torch.uint8)
    replaced: dict[str, Any] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.get_device_name": lambda *_: "claimed GPU",
        "torch.cuda.get_device_capability": lambda *_: (8, 0),
        "torch.cuda.mem_get_info": lambda *_: (64 << 30, 80 << 30),
        "torch.cuda.is_initialized": lambda: True,
        "torch.cuda.get_rng_state": lambda *_: state,
        "torch.cuda.get_rng_state_all": lambda: [state],
        "torch.cuda.set_rng_state": lambda *_: None,
        "torch.cuda.set_rng_state_all": lambda *_: None,
        "torch.cuda.manual_seed": lambda *_: None,
        "torch.cuda.manual_seed_all": lambda *_: None,
        "torch.cuda.synchronize": lambda *_: gpu.note("synchronisation"),
        "torch.cuda.current_stream": lambda *_: _Stream(gpu),
        "torch.cuda.Stream": lambda *_, **__: _Stream(gpu),
        "torch.cuda.stream": lambda *_: ExitStack(),
        "torch.cuda.device": lambda *_: ExitStack(),
        "torch.cuda.set_device": lambda *_: None,
        "torch.cuda.Event": event,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.Tensor.pin_memory": _pinned,
        "torch.Tensor.is_pinned": lambda value, *_: getattr(value, "pinned", False),
        "torch.Tensor.record_stream": lambda *_: None,
        "torch.empty": _empty(torch.empty),
    }
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as stack, torch.autograd.set_multithreading_enabled(False):
            for name, instead in replaced.items():
                stack.enter_context(mock.patch(name, instead))
            with gpu:
                yield gpu
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def _pinned(value: Tensor, *_: Any) -> Tensor:
    copy = value.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy


def _empty(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def pinned(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        made = empty(*args, **kwargs)
        if pin_memory:
            made.pinned = True  # type: ignore[attr-defined]
        return made

    return pinned


_KEPT: list[Any] = []
"""What C++ was given, which must not be freed."""


def _let_autograd_record() -> None:
    """Give a CPU build of torch what autograd asks of a device: a guard that does nothing, and that CUDA is built.

    A build with CUDA has both, and `FakeTensorMode` sees to a machine without a GPU. There is no Python way to either:
    torch puts an idle guard in the place of one that knows no device, and whether CUDA is built is a virtual function.
    """
    if torch.backends.cuda.is_built() or _KEPT:
        return
    folder = Path(torch.__file__).parent / "lib"
    c10, torch_cpu = (ctypes.CDLL(str(folder / name)) for name in ("libc10.so", "libtorch_cpu.so"))
    guards = (ctypes.c_void_p * 20).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    guards[_CUDA] = guards[_LAZY]
    torch._C._ensureCUDADeviceGuardSet()
    if guards[_CUDA] == guards[_LAZY]:
        raise RuntimeError("this build of torch keeps its device guards elsewhere")
    hooks_of = torch_cpu._ZN2at6detail12getCUDAHooksEv
    hooks_of.restype = ctypes.c_void_p
    hooks = ctypes.cast(hooks_of(), ctypes.POINTER(ctypes.c_void_p))
    size = 64
    table = (ctypes.c_void_p * size).from_buffer_copy((ctypes.c_void_p * size).from_address(hooks[0] - 16))
    yes = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)(lambda _: True)
    no = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_int8)(lambda *_: False)
    _KEPT.extend([table, yes, no])
    hooks[0] = ctypes.addressof(table) + 16
    for place in range(2, 14):  # that of `isBuilt`; `isAvailable` and `hasPrimaryContext` follow
        before, table[place] = table[place], ctypes.cast(yes, ctypes.c_void_p).value
        found = torch._C._accelerator_getAccelerator()
        if found is not None and found.type == "cuda":
            table[place + 2] = ctypes.cast(no, ctypes.c_void_p).value
            return
        table[place] = before
    raise RuntimeError("this build of torch says elsewhere whether it has CUDA")
