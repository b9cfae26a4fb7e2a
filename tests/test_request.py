"""What a user asks for: options, YAML files, and mistakes in one sentence."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.checks import ONLY
from bench.request import Request, one_space, parse

FILE = """\
space: s1
methods: [darts, random_ws]
seeds: 1:4
epochs: 12
curvature: off
train-size: 100
set:
  darts: {arch.lr: 1e-3, weights.clip: null}
fresh: true
results: elsewhere
"""


def written(folder: Path, text: str) -> str:
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    return str(folder / "run.yaml")


def test_nothing_but_the_space_is_needed_and_the_rest_is_left_to_the_preset() -> None:
    found = parse(["--space", "toy"])
    assert found == Request(space="toy")
    assert found.methods == ("all",)
    assert found.benchmark == "auto"
    assert found.seeds is found.epochs is found.device is None


def test_every_option_has_a_flag() -> None:
    numbers = "epochs budget train-size channels cells batch-size probe-size threads replicas curvature-every queries"
    numbers += " fitness-budget ranking-every curvature-replicas jobs retries"
    words = "--methods darts,random_ws --seeds 0,2 --benchmark paper --dataset digits --table none --device cpu"
    paths = "--curvature exact --results elsewhere --set darts.arch.lr=1e-3 --fresh --dry-run --space toy --budget-s 9"
    paths += " --metrics ranking --landscape --tensorboard --precision bf16 --kernels triton --cuda-graphs"
    ray = "--launcher ray --address here:1 --unit-cpus 2 --unit-gpus 0.5 --shared"
    slurm = "--launcher slurm --partition low --gres gpu:1 --time 1:00:00 --sbatch account=x --sbatch qos=y"
    arguments = f"{words} {paths}".split() + [part for name in numbers.split() for part in (f"--{name}", "7")]
    found = parse(arguments)
    default = dataclasses.asdict(Request(space=""))
    same = [name for name, value in dataclasses.asdict(found).items() if value == default[name]]
    assert set(same) == {"launcher", "unit_cpus", *(name for names in ONLY.values() for name in names)}
    assert found.set == {"darts": {"arch.lr": 0.001}}
    assert found.results == Path("elsewhere")
    assert all(getattr(found, name.replace("-", "_")) == 7 for name in numbers.split())
    on_ray, on_slurm = (parse(["--space", "toy", *options.split()]) for options in (ray, slurm))
    assert (on_ray.launcher, on_ray.address, on_ray.unit_cpus, on_ray.unit_gpus) == ("ray", "here:1", 2.0, 0.5)
    assert on_ray.shared
    assert (on_slurm.launcher, on_slurm.partition, on_slurm.gres, on_slurm.time) == ("slurm", "low", "gpu:1", "1:00:00")
    assert on_slurm.sbatch == {"account": "x", "qos": "y"}


def test_a_file_spells_the_same_fields(tmp_path: Path) -> None:
    found = parse(["--config", written(tmp_path, FILE)])
    assert found == Request(
        space="s1",
        methods=("darts", "random_ws"),
        seeds=(1, 2, 3),
        epochs=12,
        curvature="off",
        train_size=100,
        set={"darts": {"arch.lr": 0.001, "weights.clip": None}},
        fresh=True,
        results=Path("elsewhere"),
    )


def test_the_command_line_wins_over_the_file_setting_by_setting(tmp_path: Path) -> None:
    more = ["--epochs", "3", "--methods", "darts", "--set", "darts.arch.lr=0.5", "--set", "random_ws.per_cell=true"]
    found = parse(["--config", written(tmp_path, FILE), *more])
    assert (found.epochs, found.methods, found.train_size) == (3, ("darts",), 100)
    assert found.set == {"darts": {"arch.lr": 0.5, "weights.clip": None}, "random_ws": {"per_cell": True}}


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0:4", (0, 1, 2, 3)), (":2", (0, 1)), ("3:5", (3, 4)), ("0,2,5", (0, 2, 5)), ("7", (7,))],
)
def test_seeds_are_a_range_or_a_list_here_and_in_a_file(text: str, seeds: tuple[int, ...], tmp_path: Path) -> None:
    assert parse(["--space", "toy", "--seeds", text]).seeds == seeds
    assert parse(["--config", written(tmp_path, f"space: toy\nseeds: {text}\n")]).seeds == seeds


def test_spaces_are_parted_each_once() -> None:
    assert [one.space for one in one_space(parse(["--space", " s1,toy, s1,"]))] == ["s1", "toy"]
    with pytest.raises(ValueError, match="expected --space like s1 or s1,s2, got ','"):
        one_space(parse(["--space", ","]))


def test_what_commas_separate_may_be_a_yaml_list(tmp_path: Path) -> None:
    lists = "space: [s1, nb201]\nmethods: [darts, gdas]\nseeds: [4, 1]\nmetrics: [ranking, native]\n"
    options = "--space s1,nb201 --methods darts,gdas --seeds 4,1 --metrics ranking,native"
    assert parse(["--config", written(tmp_path, lists)]) == parse(options.split())
    assert parse(["--config", written(tmp_path, "space: [toy]\n")]) == Request(space="toy")


@pytest.mark.parametrize(
    "text", ["", "a", "0:0", "3:1", "1,1", "-1", "0:2:1", "1.5", "0,", "2147483648", "0:99999999999"]
)
def test_wrong_seeds_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected seeds like 0:4 or 0,2,5"):
        parse(["--space", "toy", f"--seeds={text}"])


@pytest.mark.parametrize(("text", "methods"), [("all", ("all",)), (" darts , random_ws,darts", ("darts", "random_ws"))])
def test_methods_are_names_each_once(text: str, methods: tuple[str, ...]) -> None:
    assert parse(["--space", "toy", "--methods", text]).methods == methods


def test_all_includes_any_other_name() -> None:
    assert parse(["--space", "toy", "--methods", "darts,all"]).methods == ("all",)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1e-3", 0.001),
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("off", "off"),
        ("null", None),
        ("None", None),
        ("", None),
        ("[0.5, 1e-1]", [0.5, 0.1]),
        ("1:30", "1:30"),
        ("010", "010"),
        ("a=b", "a=b"),
    ],
)
def test_values_of_settings_are_yaml(value: str, expected: Any) -> None:
    found = parse(["--space", "toy", "--set", f"darts.arch.lr={value}"]).set["darts"]["arch.lr"]
    assert found == expected
    assert type(found) is type(expected)


WRONG = [
    ([], "expected --space, one of s1, s2, s3, nb201, toy, got none"),
    (["--space", "toy", "--bogus"], "unrecognized arguments: --bogus"),
    (["--space", "toy", "--epoch", "3"], "unrecognized arguments: --epoch 3"),
    (["--space", "toy", "extra"], "unrecognized arguments: extra"),
    (["--space"], "--space: expected one argument"),
    (["--space", "toy", "--epochs", "many"], "--epochs: expected a positive whole number or published, got 'many'"),
    (["--space", "toy", "--epochs", "0"], "expected a positive whole number or published for epochs, got 0"),
    (["--space", "toy", "--replicas", "-2"], "expected a positive whole number or auto for replicas, got -2"),
    (["--space", "toy", "--retries", "-1"], "expected a whole number from 0 on for retries, got -1"),
    (["--space", "toy", "--jobs", "0"], "expected a positive whole number for jobs, got 0"),
    (["--space", "toy", "--launcher", "cloud"], "expected launcher out of local.*, got 'cloud'"),
    (["--space", "toy", "--benchmark", "big"], "expected benchmark out of auto, paper, embedded, got 'big'"),
    (["--space", "toy", "--curvature", "some"], "expected curvature out of power, lanczos, exact, off, got 'some'"),
    (["--space", "toy", "--methods", ","], "expected methods like all or darts,random_ws, got ','"),
    (["--space", "toy", "--set", "darts"], "expected --set method.name=value, got 'darts'"),
    (["--space", "toy", "--set", "darts.lr"], "expected --set method.name=value, got 'darts.lr'"),
    (["--space", "toy", "--set", "darts=1"], "expected --set method.name=value, got 'darts=1'"),
    (["--space", "toy", "--set", "darts.lr=[1"], r"expected YAML in --set darts.lr=\[1, got"),
    (["--config", "nowhere.yaml"], "expected a YAML file at --config, found none at nowhere.yaml"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_mistake_is_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: toy\nepoch: 3\n", r"expected options out of address, batch_size, .*, unit_gpus, got epoch"),
        ("space: toy\nconfig: more.yaml\n", "got config"),
        ("space: [toy, 1]\n", r"expected text for space, got \['toy', 1\]"),
        ("space: [toy\n", "expected YAML in .*run.yaml, got: while parsing"),
        ("just words\n", "expected 'option: value' lines in .*run.yaml, got str"),
        ("", "got NoneType"),
        ("space: toy\nset: {darts: 3}\n", r"expected 'set: \{method: \{name: value\}\}', got"),
        ("space: toy\nset: [darts]\n", "expected 'set: "),
        ("space: toy\nset: {darts: {1: 2}}\n", "expected 'set: "),
        ("space: toy\nepochs: 2.5\n", "expected a positive whole number or published for epochs, got 2.5"),
        ("space: toy\nepochs: true\n", "expected a positive whole number or published for epochs, got True"),
        ("space: toy\nepochs: null\n", "expected a positive whole number or published for epochs, got None"),
        ("space: toy\nfresh: 1\n", "expected true or false for fresh, got 1"),
        ("space: toy\ntable: 5\n", "expected text for table, got 5"),
        ("space: toy\nresults: 5\n", "expected text for results, got 5"),
        ("space: 3\n", "expected text for space, got 3"),
        ("space: toy\nseeds: [[1]]\n", "expected seeds like"),
        ("space: toy\nseeds: [1.5]\n", "expected seeds like"),
        ("space: toy\nmethods: []\n", "expected methods like"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(["--config", written(tmp_path, text)])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"expected YAML in .*, got a file that is not text"):
        parse(["--config", str(tmp_path / "run.yaml")])


def test_help_lists_every_option_without_noise(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    text = capsys.readouterr().out
    assert "(default: None)" not in text
    for field in dataclasses.fields(Request):
        assert f"--{field.name.replace('_', '-')}" in text
