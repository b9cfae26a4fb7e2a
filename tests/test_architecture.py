"""The directions of the design, over the import statements and calls of every module."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("searchers", "bench", "analysis")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
every_module = pytest.mark.parametrize("name", NAMES)

SEARCHERS_MAY_IMPORT = {"torch", "numpy", "jaxtyping", "searchers"}
TABULAR_MAY_IMPORT = SEARCHERS_MAY_IMPORT | {"optuna", "dehb"}
COMMAND_LINES = (
    "bench/run.py",
    "bench/request.py",
    "bench/options.py",
    "bench/tables/__main__.py",
    "bench/tables/commands/*.py",
    "bench/tables/share.py",
    "bench/launch/*.py",
    "bench/speed/__main__.py",
    "bench/command.py",
    "bench/process.py",
    "bench/prepare.py",
    "bench/merge.py",
    "bench/requery.py",
    "bench/retrain/__main__.py",
    "analysis/figures.py",
    "analysis/tables.py",
    "analysis/_command.py",
    "analysis/report.py",
    "analysis/regression.py",
    "analysis/predict.py",
    "analysis/calibrate.py",
    "analysis/export.py",
)
WRITERS = (
    "bench/store.py",
    "bench/tracker.py",
    "bench/checkpoint.py",
    "bench/lock.py",
    "bench/folders.py",
    "bench/again.py",
    "bench/launch/mirror.py",
    "bench/launch/ray_worker.py",
    "bench/launch/slurm.py",
    "bench/data/*.py",
    "bench/tables/*.py",
    "bench/speed/files.py",
    "bench/retrain/__main__.py",
    "analysis/_files.py",
    "analysis/_page.py",
    "analysis/typeset.py",
)
SEEDS = {
    "bench/rng.py": {"manual_seed", "default_rng", "fork_rng"},
    # The bootstrap's generator: a constant, not derived from any seed of a run; analysis cannot import bench.
    "analysis/series.py": {"default_rng"},
}
EPOCH_LOOPS = {  # a table's cells and a found cell are trained from scratch: no search
    "bench/search.py",
    "bench/tables/build.py",
    "bench/retrain/__main__.py",
}
EPOCH_STARTS = {  # trials of speed and memory take steps of one epoch; a search of two stages passes it on
    "bench/search.py",
    "bench/launch/fit.py",
    "bench/speed/lane.py",
    "searchers/_staged.py",
    "searchers/_progressive.py",
}


def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def imports(name: str) -> Iterator[str]:
    """Every imported module, whole names; relative ones resolved."""
    package = list(Path(name).parent.parts)
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            argument = node.args[0]
            yield str(argument.value) if isinstance(argument, ast.Constant) else "unknown"


def tops(name: str) -> set[str]:
    return {module.split(".")[0] for module in imports(name)}


def called(node: ast.Call) -> str:
    """The last part of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    yield from ((called(node), node) for node in ast.walk(tree(name)) if isinstance(node, ast.Call))


def allowed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def test_the_modules_are_found() -> None:
    assert {"searchers/base.py", "bench/search.py", "analysis/figures.py"} <= set(NAMES)
    assert {"jaxtyping", "searchers"} <= tops("searchers/_hypergradient.py")


@every_module
def test_imports_point_the_right_way(name: str) -> None:
    found = tops(name)
    if name.startswith("searchers/"):
        permitted = TABULAR_MAY_IMPORT if name.startswith("searchers/tabular/") else SEARCHERS_MAY_IMPORT
        assert found <= permitted | set(sys.stdlib_module_names)
    if name.startswith("bench/"):
        assert "analysis" not in found
    if name.startswith("analysis/"):
        assert not found & {"torch", "bench", "searchers"}
    assert "tests" not in found
    assert "random" not in found  # Python's generator is global; streams are torch's or numpy's


@every_module
def test_only_command_lines_parse_arguments_and_configure_logging(name: str) -> None:
    if allowed(name, COMMAND_LINES):
        return
    assert not tops(name) & {"argparse", "click", "typer", "optparse", "getopt"}
    configuring = {"basicConfig", "dictConfig", "fileConfig", "addHandler", "set_num_threads", "set_default_dtype"}
    assert not {called_ for called_, _ in calls(name)} & configuring
    arguments = [n for n in ast.walk(tree(name)) if isinstance(n, ast.Attribute) and n.attr == "argv"]
    assert not arguments


def writes(called_: str, node: ast.Call) -> bool:
    named = {
        "write_text",
        "write_bytes",
        "unlink",
        "mkdir",
        "rmdir",
        "rmtree",
        "touch",
        "makedirs",
        "symlink_to",
    }
    saving = {"savefig", "save", "savez", "savez_compressed", "savetxt", "to_csv", "to_parquet", "to_json", "to_pickle"}
    arrow = {"OSFile", "new_file", "write_table", "write_feather", "write_csv", "urlretrieve", "NamedTemporaryFile",
             "TemporaryDirectory", "mkdtemp", "mkstemp"}  # fmt: skip
    owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    if called_ == "save" and (owner.endswith("store") or owner in {"self", "_page", "typeset"}):
        return False  # a method of our own, in a module that may write
    if called_ == "open":
        modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        return any(isinstance(mode, str) and set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)
    if called_ in {"replace", "rename"}:  # of paths; those of text, of dataclasses and of pandas are called otherwise
        moves = called_ == "replace" and len(node.args) == 1 and not node.keywords and owner not in {"", "dataclasses"}
        return owner in {"os", "shutil"} or moves
    return called_ in named | saving | arrow


@every_module
def test_only_store_data_and_tables_write(name: str) -> None:
    found = [f"{called_} in line {node.lineno}" for called_, node in calls(name) if writes(called_, node)]
    assert not found or allowed(name, WRITERS)


def test_the_search_for_writers_sees_them() -> None:
    lines = [
        "open(p, 'w')",
        "p.open('ab')",
        "open(p, mode='x')",
        "p.write_text('')",
        "torch.save(s, f)",
        "os.replace(a, b)",
        "partial.replace(path)",
    ]
    found = [node for line in lines for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)]
    assert all(writes(called(node), node) for node in found)
    for line in ("open(p)", "p.open('rb')", "text.replace('a', 'b')", "Table.open(path, dataset)"):
        (call,) = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call)]
        assert not writes(called(call), call)


@every_module
def test_only_rng_derives_seeds(name: str) -> None:
    seeding = {
        "manual_seed",
        "manual_seed_all",
        "default_rng",
        "seed",
        "RandomState",
        "SeedSequence",
        "PCG64",
        "fork_rng",
    }
    found = {called_ for called_, _ in calls(name)} & seeding
    assert found <= SEEDS.get(name, set())


@every_module
def test_nothing_is_drawn_without_a_generator(name: str) -> None:
    """torch draws from the global stream unless given a generator; numpy's module functions always do."""
    for called_, node in calls(name):
        text = ast.unparse(node.func)
        if text in {
            f"torch.{kind}" for kind in ("rand", "randn", "randint", "randperm", "multinomial", "normal", "bernoulli")
        }:
            assert "generator" in {keyword.arg for keyword in node.keywords}, text
        assert text not in {f"torch.{kind}" for kind in ("rand_like", "randn_like", "randint_like")}, text
        if text.startswith("np.random."):
            assert called_ in {"default_rng", "Generator"}, text
        assert called_ not in {"dropout", "dropout2d", "gumbel_softmax", "exponential_", "uniform_", "normal_"} or (
            "generator" in {keyword.arg for keyword in node.keywords}
        ), text


def epoch_loops(name: str) -> list[int]:
    """Lines of loops over epochs: `for epoch in …`, `while … epoch …`."""
    found = []
    for node in ast.walk(tree(name)):
        loops = isinstance(node, ast.For) and "epoch" in {
            n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)
        }
        whiles = isinstance(node, ast.While) and "epoch" in ast.unparse(node.test)
        found += [node.lineno] if loops or whiles else []
    return found


def epoch_starts(name: str) -> list[int]:
    return [node.lineno for called_, node in calls(name) if called_ == "begin_epoch"]


@every_module
def test_only_search_loops_over_epochs(name: str) -> None:
    assert not epoch_loops(name) or name in EPOCH_LOOPS
    assert not epoch_starts(name) or name in EPOCH_STARTS


def test_search_does_loop_over_epochs() -> None:
    assert all(epoch_loops(name) for name in EPOCH_LOOPS)
    assert epoch_starts("bench/search.py")


CONTRACT = {"base", "entry", "registry"}
"""Files of searchers/ that are neither a method's nor a shared piece."""


def test_shared_pieces_know_no_method() -> None:
    """One file a method: a shared piece neither imports a method nor branches on its name."""
    methods = {path.stem for path in (ROOT / "searchers").glob("*.py")} - {*CONTRACT, "__init__"}
    methods = {name for name in methods if not name.startswith("_")}
    assert {"darts", "random_ws"} <= methods
    for path in (ROOT / "searchers").glob("_*.py"):
        name = f"searchers/{path.name}"
        assert not {module.rsplit(".", 1)[-1] for module in imports(name)} & (methods | {"registry"}), name
        for node in ast.walk(tree(name)):
            known = node.value if isinstance(node, ast.Constant) else getattr(node, "id", getattr(node, "attr", None))
            assert not (isinstance(known, str) and known in methods), (name, node.lineno)
    for method in methods - {"darts"}:
        shared = {module for module in imports(f"searchers/{method}.py") if module.startswith("searchers.")}
        assert not {module.split(".")[1] for module in shared} & {"registry"}, method


def test_every_method_file_is_in_the_registry() -> None:
    registered = set(imports("searchers/registry.py"))
    assert "searchers.entry" in registered
    source = (ROOT / "searchers/registry.py").read_text(encoding="utf-8")
    for path in (ROOT / "searchers").glob("[a-z]*.py"):
        if path.stem not in CONTRACT:
            assert f"{path.stem}.METHOD" in source


NO_EFFECT = """
import importlib, logging, random, sys, threading, warnings
import numpy as np
import torch

def state():
    flags = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), np.geterr()
    flags += torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    flags += torch.are_deterministic_algorithms_enabled(), logging.root.level, tuple(logging.root.handlers)
    draws = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
    return flags, draws, threading.active_count()

# What our modules import from elsewhere may do as it likes; load it first.
for name in {outside!r}:
    importlib.import_module(name)
before = state()
for name in {modules!r}:
    importlib.import_module(name)
    ours = [n for n, l in logging.root.manager.loggerDict.items() if n.split(".")[0] in {packages!r}]
    assert not any(getattr(logging.getLogger(n), "handlers", []) for n in ours), name
    assert state() == before, name
"""


def test_what_is_loaded_follows_the_imports() -> None:
    """Not only no import statement: nothing that analysis or searchers load brings the others in."""
    modules = {p: [m for m in map(dotted, NAMES) if m.split(".")[0] == p] for p in ("analysis", "searchers")}
    script = (
        "import importlib, sys\n"
        f"for name in {modules['analysis']!r}: importlib.import_module(name)\n"
        "assert not {'torch', 'bench', 'searchers'} & set(sys.modules)\n"
        f"for name in {modules['searchers']!r}: importlib.import_module(name)\n"
        "assert 'bench' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def dotted(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_importing_has_no_effect(tmp_path: Path) -> None:
    modules = [dotted(name) for name in NAMES]
    outside = sorted({m for name in NAMES for m in imports(name) if m.split(".")[0] not in PACKAGES} - {"", "__main__"})
    optional = (
        "optuna",
        "dehb",
        "ray",
        "submitit",
        "tensorboardX",
        "google",
        "google_crc32c",
        "tfrecord",
        "nas_201_api",
    )
    outside = [module for module in outside if module.split(".")[0] not in optional]
    script = NO_EFFECT.format(outside=outside, modules=modules, packages=set(PACKAGES))
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "MPLCONFIGDIR": str(tmp_path / "mpl"),
                   "XDG_CACHE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:searchers", "-c", script],
        cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    assert list(work.iterdir()) == []
    assert list(home.iterdir()) == []
