"""The figures of one run of the benchmark, as JSON and as Markdown."""

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import memory, place
from bench.setup import Bench
from bench.speed.section import Section, Value


@dataclass(frozen=True)
class Sitting:
    """What was measured on one space at one size."""

    heading: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Report:
    """Everything of one run.

    Attributes:
        facts: hardware, versions, when.
    """

    title: str
    facts: Mapping[str, Any]
    sittings: tuple[Sitting, ...]

    def plain(self) -> dict[str, Any]:
        """Return values that JSON can hold; a number that is not finite is null."""
        sittings = [
            {
                "heading": sitting.heading,
                "sections": [
                    {"title": s.title, "about": s.about, "rows": [_finite(row) for row in s.rows]}
                    for s in sitting.sections
                ],
            }
            for sitting in self.sittings
        ]
        return {"title": self.title, **self.facts, "sittings": sittings}

    def markdown(self) -> str:
        lines = [f"# {self.title}", "", *(f"- {name}: {_spelled(value)}" for name, value in self.facts.items())]
        for sitting in self.sittings:
            lines += ["", f"## {sitting.heading}"]
            for section in sitting.sections:
                lines += ["", f"### {section.title}", "", section.about, "", *_table(section)]
        return "\n".join(lines).rstrip() + "\n"


def facts(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on: the machine, how busy it is, and versions."""
    environment = place.environment(device, ())
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": environment["device"],
        "device_name": environment["device_name"],
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": environment["threads"],
        "memory_mib": memory.limit_bytes(device) // 2**20,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": environment["python"],
        "versions": environment["versions"],
        "revision": environment["revision"],
    }


def heading(bench: Bench, about: str) -> str:
    """Return what was measured: space, data and sizes."""
    preset = bench.preset
    return (
        f"{bench.space.name}, {about}: {preset.dataset}, {preset.train_size} images, batch {preset.batch_size}, "
        f"{preset.channels} channels, {preset.cells} cells a stage, probe {preset.probe_size}"
    )


def _table(section: Section) -> list[str]:
    if not section.rows:
        return []
    heads = [column.title for column in section.columns]
    rows = [[column.text(row) for column in section.columns] for row in section.rows]
    sides = ["---" if isinstance(section.rows[0][c.field], str) else "---:" for c in section.columns]
    return ["| " + " | ".join(cells) + " |" for cells in (heads, sides, *rows)]


def _finite(row: Mapping[str, Value]) -> dict[str, Value]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _spelled(value: Any) -> str:
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
