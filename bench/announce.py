"""What a command says before it searches: the benchmark and why, and with `--dry-run` the whole plan."""

from rich.console import Console

from bench import setup, store
from bench.estimate import WIDEST, Estimate, estimate
from bench.launch.plan import Plan
from bench.setup import Bench
from bench.variants import Variant


def say(console: Console, line: str) -> None:
    """Print a line as it is, however long."""
    console.print(line, highlight=False, soft_wrap=True)


def announce(console: Console, bench: Bench) -> None:
    """Say which benchmark runs, why, its sizes, and how it differs from the methods' defaults."""
    preset, halves = bench.preset, (len(bench.dataset.train_indices), len(bench.dataset.val_indices))
    shares = "in two halves" if halves[0] == halves[1] else f"({halves[0]} for weights, {halves[1]} for choices)"
    lines = [
        f"benchmark {preset.name}: {bench.why}",
        f"{bench.space.name} on {preset.dataset}: {preset.train_size} images {shares}, batch {preset.batch_size}, "
        f"{preset.channels} channels, {preset.cells} cells a stage, {_epochs(bench)} epochs, device {bench.device}",
    ]
    if changes := _changes(bench):
        lines.append(f"settings that differ from the methods' defaults: {'; '.join(changes)}")
    if bench.truth is None:
        lines.append(_no_table(bench))
    else:
        facts = bench.truth.reference
        covered = "unknown" if facts.coverage is None else f"{facts.coverage:.1%}"
        lines.append(f"table: {facts.rows} cells ({covered} of all encodings), {facts.budget} epochs, {facts.source}")
    if "ranking" in bench.request.metrics:
        lines.append(f"ranking: {preset.ranking.cells} cells of the space, overlap of the best {preset.ranking.top}")
    for line in lines:
        say(console, line)


def _epochs(bench: Bench) -> str:
    return "each method's published" if bench.request.epochs == "published" else str(bench.preset.epochs)


def _no_table(bench: Bench) -> str:
    line = "no benchmark table: cells are recorded without true accuracies and regrets"
    if bench.request.table == "none":
        return line
    return f"{line}; python -m bench.tables build --space {bench.space.name} --dataset {bench.preset.dataset} makes one"


def _changes(bench: Bench) -> list[str]:
    """Return the preset's settings of the methods asked for, and of all methods."""
    asked = {"*"}.union(*(name.split("+") for name in bench.request.methods))
    return [
        f"{name}: {', '.join(f'{path}={value}' for path, value in inner.items())}"
        for name, inner in bench.preset.settings.items()
        if name in asked or "all" in asked
    ]


def dry_run(console: Console, plan: Plan) -> float:
    """Say what each run is and costs, and which units there are; return their seconds, one after another."""
    sizes = {variant.label: _runs(console, plan, variant) for variant in plan.variants}
    total_s, request = 0.0, plan.bench.request
    for unit in plan.units:
        found, width = sizes[unit.variant_label]
        done = store.Store(request.results, plan.specs(unit)).trained() if unit.resumes else 0
        wall_s = found.wall_s * len(unit.seeds) / width * (1 - done / max(unit.epochs, 1))
        how = f", goes on, {done} of {unit.epochs} epochs recorded" if unit.resumes else ""
        say(console, f"unit {unit.label}: stack of {len(unit.seeds)}, about {wall_s:.0f} s{how}")
        total_s += wall_s
    return total_s


def _where(bench: Bench, variant: Variant) -> str:
    """Return where a published horizon is from, in brackets; nothing for another."""
    found = variant.method.published if bench.request.epochs == "published" else None
    return "" if found is None else f" ({found.where})"


def _runs(console: Console, plan: Plan, variant: Variant) -> tuple[Estimate, int]:
    """Say what the runs of a variant are; return what a stack of them costs, and its width."""
    specs, request = variant.specs, plan.bench.request
    widths = [len(unit.seeds) for unit in plan.units if unit.variant_label == variant.label]
    width = max(widths, default=len(specs))
    found = estimate(setup.stack(plan.bench, variant.method, specs[: min(width, WIDEST)]), width)
    note = f"{variant.note}, " if variant.note else ""
    note += f"{specs[0].epochs} epochs{_where(plan.bench, variant)}, "
    for spec in specs:
        done = "  finished" if store.finished(request.results, spec) else ""
        say(
            console,
            f"{spec.name}  {note}{found.weights:,} weights, {found.logits} logits in {found.rows} rows, "
            f"{found.steps_per_epoch} steps an epoch, about {found.wall_s / width:.0f} s, "
            f"{found.peak_bytes / 2**20:.0f} MiB a stack of {width}{done}",
        )
    return found, width
