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


TEXT = {
    "space": f"search space: {', '.join(SPACES)}",
    "methods": "all (the default: that train a supernet), tabular (all that search a table), or names separated by "
    "commas; darts+perturbation searches and then selects",
    "seeds": "a range 0:4 or a list 0,2,5",
    "benchmark": "auto, paper (CIFAR-10, official table, published sizes) or embedded (digits, small, offline)",
    "dataset": "cifar10, cifar100, imagenet16 (ImageNet16-120) or digits",
    "table": "benchmark table (.arrow, .parquet, .csv), or none to run without accuracies",
    "device": "cpu, cuda, cuda:1",
    "curvature": "power (iteration), lanczos (fewer products), exact (whole spectrum every epoch) or off",
    "precision": "of the steps: fp32, tf32 (a GPU) or bf16; λ and evaluations are fp32 whatever it is",
    "kernels": "of the steps on a GPU: torch, triton (mixed operations as one) or triton-all (convolutions too)",
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
NUMBERS = {
    "budget": "training epochs of the table's accuracies",
    "train_size": "images of both halves together",
    "channels": "channels of the first stage",
    "cells": "cells a stage",
    "batch_size": "images a batch",
    "probe_size": "images the Hessian is measured on",
    "threads": "CPU threads of a process; by default one where maps are small, otherwise its share of the cores",
    "curvature_every": "epochs from one measurement of curvature to the next",
    "curvature_replicas": "most seeds of a stack whose λ is recorded at once: it takes more memory than their steps "
    "(paper: 2, embedded: all)",
    "ranking_every": "epochs from one measurement of --metrics ranking to the next; without: after the last epoch",
    "queries": "cells a repetition of a table-only method may ask for",
    "jobs": "processes that search stacks at once, each with its share of the cores and of the GPUs; by default as "
    "many as there are cores and memory for where maps are small, otherwise 1",
    "retries": "how often a stack is tried again whose process died",
    "fitness_budget": "training epochs of the accuracy that table-only methods see",
}
SECONDS_AND_SHARES = {
    "unit_cpus": "ray, slurm: CPUs a stack gets, 1 by default",
    "unit_gpus": "ray: GPUs a stack gets, such as 0.25",
    "budget_s": "simulated seconds a repetition may spend",
}
WORDS = {
    "epochs": ("published", "total budget, schedules scale with it; published: each method's own"),
    "replicas": (
        "auto",
        "most seeds searched as one stack, all by default; auto: as many as a trial shows to fit into memory",
    ),
}
"""Whole numbers in whose place a word may stand."""
FLAGS = {
    "shared": "ray: all machines see --results under this path",
    "landscape": "slices of the loss after the last epoch, along λ's vector",
    "tensorboard": "curves for TensorBoard, under results/tensorboard",
    "fresh": "start again, dropping these runs' records",
    "cuda_graphs": "GPU: record a step of every epoch and play it, where a method allows it",
    "dry_run": "print what would run, without training",
}
LISTS = {
    "sbatch": ("NAME=VALUE", "slurm: a further option of sbatch, such as account=x"),
    "set": ("METHOD.NAME=VALUE", "change a setting of a method; a,b,c searches with each"),
}
"""Options that may be given several times."""


def parser() -> argparse.ArgumentParser:
    """Return the parser; what was not given is None."""
    found = Parser(
        prog="python -m bench.run",
        description="Search with every method, record true accuracy and curvature.",
        allow_abbrev=False,
    )
    for kind, options in ((str, TEXT), (int, NUMBERS), (float, SECONDS_AND_SHARES)):
        for name, about in options.items():
            found.add_argument(_flag(name), help=about, default=None, type=kind)
    for name, (word, about) in WORDS.items():
        found.add_argument(_flag(name), help=about, default=None, type=whole_or(word))
    for name, (shape, about) in LISTS.items():
        found.add_argument(_flag(name), help=about, default=None, action="append", metavar=shape)
    for name, about in FLAGS.items():
        found.add_argument(_flag(name), help=about, default=None, action="store_true")
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
