"""Gives torch the device "simulated", to test without a GPU what is to run on one: `simulated_device.cpp`, compiled."""

import os
import subprocess
import sysconfig
import types
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.cpp_extension import include_paths, library_paths

SOURCE = Path(__file__).with_suffix(".cpp")
NAME = "simulated"
COMPILER = (sysconfig.get_config_var("CXX") or "c++").split()[0]


@cache
def start(folder: Path) -> None:
    """Compiles the device into a folder, unless it is there, and registers it, once in a process."""
    library = folder / f"{NAME}-{sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:12]}.so"
    if not library.exists():
        _compile(library)
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    torch.ops.simulated.start()


def _compile(library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    unfinished = library.with_suffix(f".{os.getpid()}")  # several processes may compile it at once
    paths = [f"-isystem{path}" for path in include_paths()] + [f"-L{path}" for path in library_paths()]
    options = ["-shared", "-fPIC", "-std=c++20", "-O1", f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}"]
    libraries = ["-lc10", "-ltorch_cpu", "-ltorch"]
    subprocess.run([COMPILER, *options, *paths, str(SOURCE), *libraries, "-o", str(unfinished)], check=True)
    unfinished.replace(library)


def _module() -> types.ModuleType:
    """The functions that torch asks of every device's module; the only random numbers are those of the CPU."""
    module = types.ModuleType(f"torch.{NAME}")
    module.is_available = module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.manual_seed_all = lambda seed: None
    module.get_rng_state = lambda device=0: torch.get_rng_state()
    module.set_rng_state = lambda state, device=0: None
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    return module


class Reads(TorchDispatchMode):
    """Counts the times that the host waits for a number of a device, or copies from it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name, given = func.overloadpacket.__name__, [a for a in args if isinstance(a, torch.Tensor)]
        there = any(tensor.device.type == self.device for tensor in given)
        comes = isinstance(out, torch.Tensor) and out.device.type == "cpu" and name in ("_to_copy", "copy_")
        self.count += there and (comes or name in ("_local_scalar_dense", "nonzero"))
        return out
