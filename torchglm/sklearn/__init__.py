"""Estimators for scikit-learn's pipelines, searches and metadata routing: `pip install 'torchglm[sklearn]'`."""

from __future__ import annotations

from typing import NoReturn

from torchglm.model.usual import OF_SKLEARN
from torchglm.sklearn.classifier import GLMClassifier
from torchglm.sklearn.regressor import GLMRegressor
from torchglm.sklearn.regressor_cv import GLMRegressorCV
from torchglm.writing.nearest import absent

__all__ = ["GLMClassifier", "GLMRegressor", "GLMRegressorCV"]


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(absent("module 'torchglm.sklearn'", name, OF_SKLEARN, __all__))
