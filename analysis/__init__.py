"""Statements from records: loading, statistics, figures. Imports no torch."""
