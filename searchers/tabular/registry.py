"""Every table-only method by name; adding one is one file and one line here."""

from searchers.entry import TableMethod
from searchers.tabular import (
    bohb,
    de,
    dehb,
    hyperband,
    l2nas,
    local_search,
    random_search,
    regularized_evolution,
    reinforce,
    tpe,
)

TABLE_METHODS: dict[str, TableMethod] = {
    method.name: method
    for method in (
        random_search.METHOD,
        regularized_evolution.METHOD,
        reinforce.METHOD,
        local_search.METHOD,
        de.METHOD,
        tpe.METHOD,
        l2nas.METHOD,
        hyperband.METHOD,
        bohb.METHOD,
        dehb.METHOD,
    )
}
