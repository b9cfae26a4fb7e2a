"""The options of `python -m bench.run`, without their checks."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from bench.spaces import SPACES


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def whole_or(word: str) -> Callable[[str], int | str]:
    """Return what reads an option that takes a whole number or a word."""

    def read(text: str) -> int | str:
        try:
            return text if text == word else int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a positive whole number or {word}, got {text!r}") from None

    return read


def parser() -> argparse.ArgumentParser:
    """Return the parser; what was not given is None."""
    found = Parser(
        prog="python -m bench.run",
        description="Search with every method, record true accuracy and curvature.",
        allow_abbrev=False,
    )
    text: dict[str, str] = {
        "space": f"search space: {', '.join(SPACES)}",
        "methods": "all (that train a supernet), tabular (all that search a table), or names separated by commas; "
        "darts+perturbation searches and then selects",
        "seeds": "a range 0:4 or a list 0,2,5",
        "benchmark": "auto, paper (CIFAR-10, official table, published sizes) or embedded (digits, small, offline)",
        "dataset": "cifar10, cifar100, imagenet16 (ImageNet16-120) or digits",
        "table": "benchmark table (.arrow, .parquet, .csv), or none to run without accuracies",
        "device": "cpu, cuda, cuda:1",
        "curvature": "power (iteration), lanczos (fewer products), exact (whole spectrum every epoch) or off",
        "metrics": "ranking: how well shared weights rank cells, against the table; native: λ of the loss that methods "
        "which sample descend on",
        "results": "folder the runs are written to",
        "launcher": "where the stacks are searched: local, ray (a cluster, extra [ray]) or slurm (extra [slurm])",
        "address": "ray: of the cluster; without: RAY_ADDRESS, or a cluster on this machine",
        "partition": "slurm: where the jobs go",
        "gres": "slurm: what a job needs beside CPUs, such as gpu:1",
        "time": "slurm: limit of a job, such as 4:00:00; it is put back into the queue and goes on",
        "config": "YAML file that spells the same options",
    }
    numbers: dict[str, str] = {
        "budget": "training epochs of the table's accuracies",
        "train_size": "images of both halves together",
        "channels": "channels of the first stage",
        "cells": "cells a stage",
        "batch_size": "images a batch",
        "probe_size": "images the Hessian is measured on",
        "threads": "CPU threads",
        "curvature_every": "epochs from one measurement of curvature to the next",
        "ranking_every": "epochs from one measurement of --metrics ranking to the next; without: after the last epoch",
        "queries": "cells a repetition of a table-only method may ask for",
        "jobs": "processes that search stacks at once; each takes its share of the cores and of the GPUs",
        "retries": "how often a stack is tried again whose process died",
        "fitness_budget": "training epochs of the accuracy that table-only methods see",
    }
    for name, about in text.items():
        found.add_argument(f"--{name.replace('_', '-')}", help=about, default=None)
    for name, about in numbers.items():
        found.add_argument(f"--{name.replace('_', '-')}", help=about, default=None, type=int)
    found.add_argument(
        "--epochs",
        help="total budget, schedules scale with it; published: each method's own",
        default=None,
        type=whole_or("published"),
    )
    found.add_argument(
        "--replicas",
        help="most seeds searched as one stack, all by default; auto: as many as a trial shows to fit into memory",
        default=None,
        type=whole_or("auto"),
    )
    found.add_argument("--unit-cpus", help="ray, slurm: CPUs a stack gets, 1 by default", default=None, type=float)
    found.add_argument("--unit-gpus", help="ray: GPUs a stack gets, such as 0.25", default=None, type=float)
    found.add_argument(
        "--shared", action="store_true", default=None, help="ray: all machines see --results under this path"
    )
    found.add_argument(
        "--sbatch", action="append", metavar="NAME=VALUE", help="slurm: a further option of sbatch, such as account=x"
    )
    found.add_argument("--budget-s", help="simulated seconds a repetition may spend", default=None, type=float)
    found.add_argument(
        "--set",
        action="append",
        metavar="METHOD.NAME=VALUE",
        help="change a setting of a method; a,b,c searches with each",
    )
    found.add_argument(
        "--landscape",
        action="store_true",
        default=None,
        help="slices of the loss after the last epoch, along λ's vector",
    )
    found.add_argument(
        "--tensorboard", action="store_true", default=None, help="curves for TensorBoard, under results/tensorboard"
    )
    found.add_argument("--fresh", action="store_true", default=None, help="start again, dropping these runs' records")
    found.add_argument("--dry-run", action="store_true", default=None, help="print what would run, without training")
    return found
