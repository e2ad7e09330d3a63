"""The conditions of a figure besides the code: versions, machine, threads, date."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import Any

import torch

from aced.models.compat import import_open_clip


def environment(device: torch.device) -> dict[str, Any]:
    """All conditions, for the JSON that figures are kept in.

    Args:
        device: where the models run.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": import_open_clip().__version__,
        "platform": platform.platform(terse=True),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor() or "unknown"
