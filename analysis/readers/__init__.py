"""Others' logs as runs of ours, so that old results can be drawn beside new ones.

`read` takes a folder and finds in it, at any depth, run folders of the nasbench-1shot1 family (`one_shot`: also
SmoothDARTS and MS-DARTS) and derivative files of RobustDARTS (`derivatives`). What they call the eigenvalue is not our
λ: it is the absolute value of the algebraically largest one of one augmented batch's Hessian plus weight decay, and is
read as `lambda_legacy`, never as `lambda_dominant`. Records are put at our instants: what a log reports of epoch e
(counted from 0) after its steps belongs to our epoch e + 1, the cell whose error it reports was saved before them and
belongs to our epoch e.
"""

from pathlib import Path

from analysis.load import Run
from analysis.readers import derivatives, one_shot


def read(folder: Path) -> list[Run]:
    """Return every run under a folder, by path.

    Raises:
        ValueError: there is none, or one cannot be read.
    """
    found = [one_shot.read(path) for path in one_shot.folders(folder)]
    found += [derivatives.read(path) for path in sorted(folder.rglob(derivatives.PATTERN))]
    if not found:
        raise ValueError(
            f"expected under {folder} run folders with config.json and log.txt (nasbench-1shot1, SmoothDARTS, "
            f"MS-DARTS) or files {derivatives.PATTERN} (RobustDARTS), found neither"
        )
    return found
