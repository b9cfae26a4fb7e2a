"""Command lines of analysis: a mistake in what is asked for is one sentence."""

from pathlib import Path

import pytest

from analysis import _command, calibrate, export, figures, predict, regression, report, tables

COMMANDS = {"calibrate": calibrate, "export": export, "figures": figures, "predict": predict, "report": report,
            "tables": tables}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_one_sentence_and_exit_code_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        COMMANDS[name].main(["--colour"])
    captured = capsys.readouterr()
    wanted = f"analysis.{name}: unrecognized arguments: --colour; see python -m analysis.{name} --help\n"
    assert (captured.out, captured.err) == ("", wanted)


def test_an_option_is_never_guessed_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        tables.main(["--form", "csv"])
    assert "unrecognized arguments: --form;" in capsys.readouterr().err


def test_the_regression_check_keeps_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """There 2 means that something could not be compared."""
    assert regression.main([]) == 3
    error = capsys.readouterr().err
    assert "the following arguments are required: --baseline" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["epochs=50,100"], {"epochs": ["50", "100"]}),
        (["epochs=50", "epochs=100", "seed=0"], {"epochs": ["50", "100"], "seed": ["0"]}),
        (["arch.betas=(0.5, 0.9),(0.9, 0.99)"], {"arch.betas": ["(0.5, 0.9)", "(0.9, 0.99)"]}),
        (["label=darts[lr=1,momentum=2]"], {"label": ["darts[lr=1,momentum=2]"]}),
    ],
)
def test_several_values_stand_behind_commas(words: list[str], expected: dict[str, list[str]]) -> None:
    assert _command.where(_command.parser("x", "", "out").parse_args(["--where", *words])) == expected


@pytest.mark.parametrize("out", ["afile", "afile/figures"])
def test_a_file_is_no_folder_to_write_to(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    with pytest.raises(SystemExit) as stop:
        tables.main(["--out", out])
    assert stop.value.code == 2
    assert f"expected a folder, got {out}, but " in capsys.readouterr().err
    assert _command.folder("new/one") == Path("new/one")
