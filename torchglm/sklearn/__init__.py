"""Estimators for scikit-learn's pipelines, searches and metadata routing: `pip install 'torchglm[sklearn]'`."""

from __future__ import annotations

from torchglm.sklearn.classifier import GLMClassifier
from torchglm.sklearn.regressor import GLMRegressor
from torchglm.sklearn.regressor_cv import GLMRegressorCV

__all__ = ["GLMClassifier", "GLMRegressor", "GLMRegressorCV"]
