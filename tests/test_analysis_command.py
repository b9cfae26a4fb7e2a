"""Command lines of analysis: a mistake in what is asked for is one sentence."""

import pytest

from analysis import calibrate, export, figures, predict, regression, report, tables

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
