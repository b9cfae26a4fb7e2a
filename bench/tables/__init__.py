"""Benchmark tables: compact memory-mapped files, the forms they are read from, and where they are found."""

from bench.tables.arrow import load, write
from bench.tables.data import Measurement, Slot, TableData
from bench.tables.table import Reference, Table, TableEntry

__all__ = ["Measurement", "Reference", "Slot", "Table", "TableData", "TableEntry", "load", "write"]
