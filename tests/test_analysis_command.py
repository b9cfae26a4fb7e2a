"""Command lines of analysis: a mistake in what is asked for is one sentence."""

from pathlib import Path

import pytest
from test_analysis_study import write_study

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


@pytest.mark.parametrize("words", [["s1,nb201"], ["s1", "nb201"], ["s1,", "nb201"], ["s1, nb201,s1"], ["s1 ,nb201"]])
def test_names_stand_behind_blanks_or_commas(words: list[str]) -> None:
    assert _command.names(words) == ["s1", "nb201"]


def test_no_name_is_no_choice_and_a_comma_alone_is_refused() -> None:
    assert _command.names([]) == []
    with pytest.raises(ValueError, match="expected names joined by commas or blanks, got ', ,'"):
        _command.names([",", ","])


def test_a_method_may_have_commas_in_brackets() -> None:
    options = _command.parser("x", "", "out").parse_args(["--methods", "darts[lr=1,momentum=2], gdas"])
    assert _command.methods(options) == ["darts[lr=1,momentum=2]", "gdas"]
    assert _command.methods(_command.parser("x", "", "out").parse_args([])) == []


@pytest.mark.parametrize("join", [",", " "])
def test_every_option_of_several_names_takes_both(join: str, tmp_path: Path) -> None:
    write_study(tmp_path / "results")
    where = ["--results", str(tmp_path / "results"), "--out", str(tmp_path / "out"), "--space"]
    spaces, formats, kinds, drawn = (join.join(names).split(" ") for names in (
        ("s1", "nb201"), ("csv", "markdown"), ("accuracy", "stability"), ("regret", "profile"),
    ))  # fmt: skip
    assert tables.main([*kinds, *where, *spaces, "--format", *formats]) == 0
    assert figures.main([*where, *spaces, "--figure", *drawn]) == 0
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {
        *(f"{kind}-{space}{end}" for kind in ("accuracy", "stability") for space in ("s1", "nb201")
          for end in (".csv", ".md")),
        *(f"{name}.{end}" for name in ("regret", "profile") for end in ("png", "pdf")),
    }  # fmt: skip


def test_an_unknown_format_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--format", "csv,html"]) == 2
    assert capsys.readouterr().err == "analysis.tables: no format 'html'; there are markdown, latex, csv\n"


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
