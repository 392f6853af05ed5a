"""Families whose law has several linear predictors: classes, and laws of which more than the mean depends on columns.

`base` is the contract. To add one, write its class in the file it belongs to and name it once in `MEMBERS`.
"""

from __future__ import annotations

from torchglm import links
from torchglm.families.base import Family
from torchglm.families.positive import Gamma, InverseGaussian
from torchglm.families.real import Gaussian
from torchglm.families.several.base import VectorFamily
from torchglm.families.several.categorical import Classes, Multinomial, Ordinal
from torchglm.families.several.dispersion import Dispersed, Plain
from torchglm.links import Link

__all__ = ["MEMBERS", "Classes", "Dispersed", "Multinomial", "Ordinal", "Plain", "VectorFamily", "of_predictors"]

MEMBERS: tuple[type[VectorFamily], ...] = (Multinomial, Ordinal)


def of_predictors(family: Family, link: str | Link | None = None) -> VectorFamily:
    """The family with a predictor for each parameter of its law, beside that of the mean.

    Raises `ValueError` for a family that has no other.
    """
    if isinstance(family, VectorFamily):
        return family
    if type(family) in (Gaussian, Gamma, InverseGaussian):
        return Dispersed(family, None if link is None else links.get(link))
    raise ValueError(
        f"{family.name} has no parameter beside its mean that could have a predictor. Leave predictors= out."
    )
