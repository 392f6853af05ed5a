"""Penalties: they see the quadratic model of a step, never the rows.

The penalised fit minimises `(1 / sum w) * negative log-likelihood (phi = 1) + penalty(b)`, glmnet's form. To add a
penalty, write one class here; the laws of the tests find it by `PENALTIES`.
"""

from __future__ import annotations

from torchglm.fitting.penalties.base import Penalty
from torchglm.fitting.penalties.concave import MCP, SCAD
from torchglm.fitting.penalties.constraints import Constrained
from torchglm.fitting.penalties.elastic_net import ByColumn, ElasticNet, Ridge
from torchglm.fitting.penalties.fused import Fused
from torchglm.fitting.penalties.groups import GroupLasso
from torchglm.fitting.penalties.known import Along, Around
from torchglm.fitting.penalties.quadratic import METHODS, Quadratic
from torchglm.fitting.penalties.rowwise import RowWise

__all__ = [
    "MCP",
    "METHODS",
    "SCAD",
    "Along",
    "Around",
    "ByColumn",
    "Constrained",
    "ElasticNet",
    "Fused",
    "GroupLasso",
    "Penalty",
    "Quadratic",
    "Ridge",
    "RowWise",
]
