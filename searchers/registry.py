"""Every method by name; adding a searcher is one file and one line here.

`method+selection` searches with a method, and then selects (`searchers._staged`).
"""

from searchers import (
    _perturbation,
    beta_darts,
    bnas_policy,
    da2s,
    da_nas_policy,
    darts,
    darts_2nd,
    darts_ada,
    darts_es,
    darts_minus,
    darts_plus,
    darts_pt,
    darts_pt_fixed,
    drnas,
    dropnas,
    dsnas,
    dso_nas,
    enas,
    entrannas,
    entrannas_dst,
    fair_darts,
    gaea_bilevel,
    gaea_erm,
    gdas,
    idarts,
    lambda_darts,
    ms_darts,
    ms_null,
    oles,
    opp_darts,
    pc_darts,
    pdarts,
    pi_nas,
    random_ws,
    rdarts_dp,
    rdarts_l2,
    sdarts_adv,
    sdarts_rs,
    sdarts_rs_matched,
    setn,
    sgas,
    shapley_nas,
    single_darts,
    snas,
    spos,
    zero_cost_pt,
)
from searchers._staged import Selection, staged
from searchers.entry import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        darts.METHOD,
        darts_2nd.METHOD,
        random_ws.METHOD,
        spos.METHOD,
        enas.METHOD,
        setn.METHOD,
        pi_nas.METHOD,
        pc_darts.METHOD,
        gdas.METHOD,
        sdarts_rs.METHOD,
        sdarts_adv.METHOD,
        ms_darts.METHOD,
        ms_null.METHOD,
        sdarts_rs_matched.METHOD,
        rdarts_l2.METHOD,
        rdarts_dp.METHOD,
        darts_es.METHOD,
        darts_plus.METHOD,
        darts_ada.METHOD,
        single_darts.METHOD,
        dropnas.METHOD,
        da2s.METHOD,
        entrannas.METHOD,
        entrannas_dst.METHOD,
        beta_darts.METHOD,
        fair_darts.METHOD,
        darts_minus.METHOD,
        drnas.METHOD,
        gaea_bilevel.METHOD,
        gaea_erm.METHOD,
        sgas.METHOD,
        sgas.METHOD_2,
        pdarts.METHOD,
        opp_darts.METHOD,
        lambda_darts.METHOD,
        oles.METHOD,
        idarts.METHOD,
        snas.METHOD,
        dsnas.METHOD,
        dso_nas.METHOD,
        bnas_policy.METHOD,
        da_nas_policy.METHOD,
        darts_pt.METHOD,
        darts_pt_fixed.METHOD,
        zero_cost_pt.METHOD,
        shapley_nas.METHOD,
    )
}

SELECTIONS: dict[str, Selection] = {selection.name: selection for selection in (_perturbation.SELECTION,)}


def find(name: str) -> Method | None:
    """Return the method of that name, or of that search and selection; None where there is none.

    A selection goes on with a network that has been trained, and is not followed by another.
    """
    first, _, second = name.partition("+")
    search, selection = METHODS.get(first), SELECTIONS.get(second)
    if search is None or selection is None:
        return METHODS.get(name)
    trains = search.policy(search.settings()).train_batches > 0
    return staged(name, search, selection) if trains and search.search is None else None
