"""Every method by name; adding a searcher is one file and one line here."""

from searchers import beta_darts, darts, darts_2nd, fair_darts, gdas, pc_darts, random_ws, single_darts
from searchers.base import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        darts.METHOD,
        darts_2nd.METHOD,
        random_ws.METHOD,
        beta_darts.METHOD,
        single_darts.METHOD,
        pc_darts.METHOD,
        fair_darts.METHOD,
        gdas.METHOD,
    )
}
