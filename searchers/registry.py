"""Every method by name; adding a searcher is one file and one line here."""

from searchers import (
    beta_darts,
    darts,
    darts_2nd,
    darts_ada,
    darts_es,
    darts_minus,
    drnas,
    dropnas,
    fair_darts,
    gaea_bilevel,
    gaea_erm,
    gdas,
    ms_darts,
    ms_null,
    pc_darts,
    random_ws,
    rdarts_dp,
    rdarts_l2,
    sdarts_adv,
    sdarts_rs,
    sdarts_rs_matched,
    sgas,
    single_darts,
)
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
        sdarts_rs.METHOD,
        sdarts_adv.METHOD,
        ms_darts.METHOD,
        ms_null.METHOD,
        sdarts_rs_matched.METHOD,
        drnas.METHOD,
        rdarts_l2.METHOD,
        rdarts_dp.METHOD,
        dropnas.METHOD,
        darts_minus.METHOD,
        darts_es.METHOD,
        darts_ada.METHOD,
        gaea_bilevel.METHOD,
        gaea_erm.METHOD,
        sgas.METHOD,
        sgas.METHOD_2,
    )
}
