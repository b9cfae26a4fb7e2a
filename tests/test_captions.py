"""Captions explain what is drawn, and nothing else."""

from pathlib import Path

import pytest
from test_analysis_study import record, spec, write_run

from analysis import figures
from analysis.load import runs, tidy
from analysis.selection import select

EXPLAINED = {
    "lambda_regret": "Large markers with lines: mean over seeds",
    "profile": "Bands: 95 % bootstrap interval",
    "landscape": "thick lines and bands: mean and 95 % bootstrap interval",
    "ablation": "mean over seeds with its 95 % bootstrap interval",
}
"""What a caption says of the things that are drawn from three seeds on."""


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_caption_explains_intervals_only_where_they_are_drawn(name: str, tmp_path: Path) -> None:
    slices = {"t": [-1.0, 0.0, 1.0], "loss": [[3, 1, 2], [1.5, 1, 1.25]]}
    for lr in (0.1, 0.2):
        for seed in range(3):
            records = [record(0), record(1, landscape=slices)]
            write_run(tmp_path, spec("s1", "darts", seed, settings={"lr": lr}, signature=f"{lr}{seed}"), records)
    frame = select(tidy(runs(tmp_path)))
    few = f"With fewer than 3 seeds {'no' if name in {'profile', 'ablation'} else 'neither a mean nor an'} interval"
    three, two = (figures.FIGURES[name].caption(part) for part in (frame, frame[frame["seed"] < 2]))
    assert EXPLAINED[name] in three
    assert few not in three
    assert EXPLAINED[name] not in two
    assert few in two


def test_a_seed_without_both_values_does_not_count_for_the_means(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, spec("s1", "darts", seed), [record(0, test=None if seed == 2 else 0.7)])
    text = figures.FIGURES["lambda_regret"].caption(select(tidy(runs(tmp_path))))
    assert text.startswith("Each marker is a run: ")
    assert "Large markers" not in text
