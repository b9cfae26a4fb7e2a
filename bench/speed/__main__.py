"""How fast a search is on this machine: `python -m bench.speed`, or one part of it on one space.

Without --benchmark it measures everything at the embedded size, and the first three parts at the papers' width with one
cell a stage and images of noise. Other options than its own are those of bench.run. Exit code 2: the request is wrong,
in one sentence.
"""

import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench import cores, options, process, setup, variants
from bench.announce import say
from bench.command import positive
from bench.progress import new_console
from bench.request import Request, one_space, parse
from bench.setup import Bench
from bench.speed import against_plain, costs, curving, files, floor, growth, outside, report, stack, width
from bench.speed.report import Report, Sitting
from bench.speed.section import Part, Plan, Section
from searchers.entry import Method

log = logging.getLogger(__name__)

PARTS: dict[str, Part] = {
    "stack": stack.measure,
    "plain": against_plain.measure,
    "curvature": curving.measure,
    "outside": outside.measure,
    "floor": floor.measure,
    "growth": growth.measure,
    "methods": costs.measure,
}
AT_WIDTH = ("stack", "plain", "curvature")
WIDE = Plan(rounds=2, most=2, spectrum=False)
SPACE = "s1"


class Job(NamedTuple):
    """One sitting before it is measured."""

    bench: Bench
    methods: Sequence[Method]
    parts: Sequence[str]
    plan: Plan
    about: str


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    console = new_console()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        given, rest = _parser().parse_known_args(arguments)
        parts = _parts(given.parts)
        request = parse(rest if any(text.split("=")[0] == "--space" for text in rest) else ["--space", SPACE, *rest])
        process.begin(request.threads)
        plan = Plan(given.rounds, given.most)
        jobs = [_job(one, parts, plan, one.benchmark) for one in _as_asked(request)]
        jobs += _at_width(request, parts, plan)
        process.use(_threads(jobs[0].bench))
        title = given.title or f"speed-{datetime.now(UTC):%Y-%m-%d-%H%M%S}"
        files.check(given.into, title)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    begun = Report(title, report.facts(jobs[0].bench.device), ())
    for found in _measured(console, jobs, begun):
        # After every part: what an interruption ends is not lost.
        paths = files.keep(given.into, title, found.plain(), found.markdown())
    say(console, found.markdown())
    for path in paths:
        say(console, f"written: {path}")
    return 0


def _parser() -> options.Parser:
    found = options.Parser(
        prog="python -m bench.speed",
        description="Measure how fast a search is on this machine.",
        epilog="Other options are those of python -m bench.run; --methods names what the last part compares.",
        allow_abbrev=False,
    )
    found.add_argument("--parts", default=",".join(PARTS), help=f"what is measured, out of {', '.join(PARTS)}")
    found.add_argument("--rounds", type=positive, default=5, help="rounds whose medians are told, 5 by default")
    found.add_argument("--most", type=positive, default=16, help="widest stack of seeds, 16 by default")
    found.add_argument("--into", type=Path, default=Path("results/speed"), help="folder of the JSON and the Markdown")
    found.add_argument("--title", help="name of the two files; without: the time")
    return found


def _parts(text: str) -> list[str]:
    names = list(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    if not names or not set(names) <= set(PARTS):
        raise ValueError(f"expected --parts out of {', '.join(PARTS)}, got {text!r}")
    return names


def _as_asked(request: Request) -> list[Request]:
    benchmark = "embedded" if request.benchmark == "auto" else request.benchmark
    return [dataclasses.replace(one, benchmark=benchmark) for one in one_space(request)]


def _at_width(request: Request, parts: Sequence[str], plan: Plan) -> list[Job]:
    """Return the sittings at the papers' width, unless a benchmark was named."""
    wanted = [part for part in parts if part in AT_WIDTH]
    spaces = [one for one in one_space(request) if one.space != "toy"]
    if request.benchmark != "auto" or not wanted:
        return []
    small = Plan(min(plan.rounds, WIDE.rounds), min(plan.most, WIDE.most), WIDE.spectrum)
    return [Job(width.prepare(one), variants.methods(one), wanted, small, "the papers' width") for one in spaces]


def _threads(bench: Bench) -> int:
    return cores.share(setup.work(bench), bench.device, 1, bench.request.threads).threads


def _job(request: Request, parts: Sequence[str], plan: Plan, about: str) -> Job:
    bench, chosen = setup.prepare(request), variants.methods(request)
    if variants.specs(bench, chosen[0])[0].epochs == 0:
        raise ValueError(f"expected a method that trains, got {chosen[0].name}, which has no steps")
    return Job(bench, chosen, parts, plan, about)


def _measured(console: Console, jobs: Sequence[Job], begun: Report) -> Iterator[Report]:
    """Yield the report as it is after every part."""
    done: tuple[Sitting, ...] = ()
    for job in jobs:
        sections: list[Section] = []
        heading = report.heading(job.bench, job.about)
        for name in job.parts:
            say(console, f"measuring {name} on {job.bench.space.name}, {job.about}")
            sections += PARTS[name](job.bench, job.methods, job.plan)
            yield dataclasses.replace(begun, sittings=(*done, Sitting(heading, tuple(sections))))
        done = (*done, Sitting(heading, tuple(sections)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
