"""DARTS-PT: DARTS searches, and perturbation selects.

Source: Wang, Cheng, Chen, Tang, Hsieh (2021), Rethinking Architecture Selection in Differentiable NAS,
https://arxiv.org/abs/2108.04392, algorithm 1.

  1. four fifths of the epochs: DARTS, first order, as `darts` at that horizon to the bit.
  2. the other epochs: rows are decided one after another by the accuracy without each of their options, and the rest
     is tuned in between (`searchers._perturbation`).
Discretise: the decisions.

Sure: 100 + 25 epochs on NAS-Bench-201. λ is that of the rows that are not decided yet.
"""

from searchers import darts
from searchers._perturbation import SELECTION
from searchers._staged import staged

METHOD = staged("darts_pt", darts.METHOD, SELECTION)
