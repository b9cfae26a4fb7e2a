"""Every table-only method by name; adding one is one file and one line here."""

from searchers.base import TableMethod
from searchers.tabular import random_search, regularized_evolution

TABLE_METHODS: dict[str, TableMethod] = {
    method.name: method
    for method in (
        random_search.METHOD,
        regularized_evolution.METHOD,
    )
}
