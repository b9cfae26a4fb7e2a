"""Others' logs, from samples of our own making in their layouts."""

import csv
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from test_analysis_study import record, spec, write_run
from test_figures import caption, legend

from analysis import _command, figures
from analysis.load import tidy
from analysis.readers import derivatives, one_shot, read

ARRAYS = [np.arange(12.0).reshape(4, 3), np.ones((1, 5)), np.zeros((1, 3)), np.full((1, 4), 0.5, np.float32)]


def sample(root: Path, epochs: int = 3, **fields: object) -> Path:
    """Write a run folder in the layout of SmoothDARTS: epoch e has eigenvalue e + .5 after, error .1 + .01 e before."""
    folder = root / "darts" / "search_space_1" / "search-exp-20210101-000000-7-1"
    folder.mkdir(parents=True)
    config = {"search_space": "1", "seed": 7, "epochs": epochs, "batch_size": 96, "perturb_alpha": "random"}
    (folder / "config.json").write_text(json.dumps(config | fields))
    lines = ["gpu device = 0"]
    for epoch in range(epochs):
        lines += [f"epoch {epoch} lr 2.5e-02", f"epoch {epoch} epsilon_alpha 3.0e-02", "[[0.1 0.2 0.3]]"]
        lines += ["train 000 9.0e+00 10.0 50.0", f"train 050 {2 - 0.1 * epoch:e} 30.0 80.0", "train_acc 31.0"]
        lines += [f"eigenvalue {epoch + 0.5:f}", "valid 000 1.0e+00 1.0 1.0", f"valid_acc {40 + epoch:f}"]
        lines += [f"TEST ERROR: {0.1 + 0.01 * epoch:.3f} | VALID ERROR: {0.2:.3f} | RUNTIME: 9.5 | PARAMS: 1200"]
        with (folder / f"one_shot_architecture_{epoch}.obj").open("wb") as file:
            pickle.dump([array + epoch for array in ARRAYS], file, protocol=3)
    (folder / "log.txt").write_text("".join(f"01/01 05:56:{i:02d} AM {line}\n" for i, line in enumerate(lines)))
    return folder


def test_numbers_are_put_at_the_instant_they_belong_to(tmp_path: Path) -> None:
    sample(tmp_path)
    (run,) = read(tmp_path)
    assert run.spec["method"] == "sdarts_rs"
    assert (run.spec["space"], run.spec["seed"], run.spec["batch_size"], run.finished) == ("s1", 7, 96, True)
    frame = tidy([run]).set_index("epoch")
    np.testing.assert_allclose(frame["lambda_legacy"], [np.nan, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(frame["error_test"], [0.1, 0.11, 0.12, np.nan])
    np.testing.assert_allclose(frame["train_loss"], [np.nan, 2.0, 1.9, 1.8])
    np.testing.assert_allclose(frame["supernet_val_accuracy"], [np.nan, 0.4, 0.41, 0.42])
    assert frame["lambda_dominant"].isna().all()
    np.testing.assert_allclose(frame.loc[2, "logits"], np.concatenate([array.ravel() + 2 for array in ARRAYS]))
    assert frame.loc[3, "logits"] is None
    assert list(run.records[0]["logits"]) == ["op", "out", "in_1", "in_2"]


def test_the_csv_of_ms_darts_has_the_digits(tmp_path: Path) -> None:
    folder = sample(tmp_path, perturb_alpha="mean_shift", bandwidth=0.5)
    names = ["eigenvalue", "test error", "valid error", "runtime", "params", "train_obj", "valid_obj"]
    with (folder.parent / f"{folder.name}<function>-b0.5-e0.25.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *([0.123456, 0.0654321, 0.05, 9, 1200, 1.5, 1.25] for _ in range(3))])
    (run,) = read(tmp_path)
    assert (run.spec["method"], run.spec["settings"]) == ("ms_darts", {"bandwidth": 0.5})
    frame = tidy([run])
    np.testing.assert_allclose(frame["lambda_legacy"], [np.nan, 0.123456, 0.123456, 0.123456])
    np.testing.assert_allclose(frame["error_test"][:3], 0.0654321)
    np.testing.assert_allclose(frame["supernet_val_loss"][1:], 1.25)


def test_nasbench_1shot1_reports_one_error_and_no_eigenvalue(tmp_path: Path) -> None:
    folder = sample(tmp_path)
    (folder / "config.json").write_text(json.dumps({"search_space": "3", "seed": 2, "unrolled": True}))
    kept = [line for line in (folder / "log.txt").read_text().splitlines() if "eigenvalue" not in line]
    kept = [line for line in kept if "ERROR" not in line] + ["x TEST ERROR: 0.061 | VALID ERROR: 0.055 | PARAMS: 5"]
    (folder / "log.txt").write_text("\n".join(kept))
    (run,) = read(tmp_path)
    assert (run.spec["space"], run.spec["method"]) == ("s3", "darts_2nd")
    assert "one of three trainings, at random" in run.warnings[0]
    np.testing.assert_allclose(tidy([run])["error_test"], [np.nan, np.nan, 0.061, np.nan])


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([Harm()]), "arrays only, found (posix|nt).system: not read"),
        (pickle.dumps([np.array([Harm()], dtype=object)]), "arrays only, found"),
        (pickle.dumps({"a": 1}), "expected a list of arrays of floats, got dict"),
        (pickle.dumps(ARRAYS)[:40], "obj: "),
        (b"", "obj: "),
    ],
)
def test_an_object_that_is_no_list_of_arrays_is_not_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "one_shot_architecture_0.obj"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        one_shot.unpickled(path)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_of_every_protocol_and_old_numpy_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.obj"
    for old in (False, True):
        content = pickle.dumps(ARRAYS, protocol=protocol)
        path.write_bytes(content.replace(b"numpy._core", b"numpy.core") if old and protocol == 3 else content)
        found = one_shot.unpickled(path)
        np.testing.assert_allclose(found["op"], ARRAYS[0])
        np.testing.assert_allclose(found["in_2"], ARRAYS[3])


@pytest.mark.parametrize("between", ["", "\n"])
def test_derivatives_give_the_largest_eigenvalue(tmp_path: Path, between: str) -> None:
    hessians = [np.diag([1.0, 2.0, -5.0]), np.array([[0.0, 3.0], [3.0, 0.0]])]
    entries = [{"epoch": 5 * i, "H": h.tolist(), "g": [3.0, 4.0]} for i, h in enumerate(hessians)]
    path = tmp_path / "derivatives_4.json"
    path.write_text(between.join(json.dumps(entry, separators=(",", ":")) for entry in entries) + between)
    (run,) = read(tmp_path)
    frame = tidy([run])
    assert frame["epoch"].to_list() == [1, 6]
    np.testing.assert_allclose(frame["lambda_legacy"], [2, 3])
    np.testing.assert_allclose(frame["curvature_gradient_norm"].astype(float), 5)
    assert (run.spec["seed"], run.spec["space"]) == (4, "robustdarts")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "an empty file"), ("{", "expected JSON objects, got"), ('{"epoch": 1}', "objects with epoch, H and g"),
     ('{"epoch": 1, "H": [[1, 2]], "g": []}', "finite square Hessian")],
)  # fmt: skip
def test_damaged_derivatives_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "derivatives_0.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        derivatives.read(path)


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.json and log.txt .* found neither"):
        read(tmp_path)


def test_others_stand_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample(tmp_path / "others")
    for seed in range(3):
        write_run(tmp_path, spec("s1", "darts", seed), [record(0, curvature={"lambda_legacy": 1.0, "loss": 1.0})])
    chosen = ["--results", str(tmp_path), "--out", str(tmp_path / "out"), "--figure", "lambda_legacy"]
    options = figures._parser().parse_args([*chosen, "--others", str(tmp_path / "others")])
    figure = figures.draw("lambda_legacy", _command.selected(options))
    assert legend(figure) == ["darts", "sdarts_rs (others)"]
    assert "at their own protocols" in caption(figure)
    capsys.readouterr()
    assert figures.main([*chosen, "--others", str(tmp_path / "out")]) == 2
    assert "found neither" in capsys.readouterr().err


def test_others_errors_are_drawn_where_no_regret_is_known(tmp_path: Path) -> None:
    sample(tmp_path / "others")
    write_run(tmp_path, spec("s1", "darts", 0), [record(0, test=None)])
    chosen = ["--results", str(tmp_path), "--others", str(tmp_path / "others")]
    figure = figures.draw("regret", _command.selected(figures._parser().parse_args(chosen)))
    (line,) = [line for line in figure.axes[1].lines if len(line.get_xdata()) == 3 and line.get_alpha() is None][:1]
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.11, 0.12])
