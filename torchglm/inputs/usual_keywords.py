"""What other libraries call the arguments of `fit`, `predict` and the other doors, and what stands for them here."""

from __future__ import annotations

from collections.abc import Iterable

from torchglm.writing.nearest import nearest

PENALTY = "penalty=torchglm.Ridge(l2), or ElasticNet(l1, l2), l1 = alpha l1_ratio"
ROBUST = "fit(...).robust('HC3'), or robust('cluster', labels)"
STEPS = "torchglm.training.fit_sgd, which takes minibatches; fit solves exactly"
ROLES = {
    "sample_weight": "weights=, or freq= for repeats",
    "weight": "weights=",
    "var_weights": "weights=",
    "freq_weights": "freq=",
    "frequency": "freq=",
    "log_exposure": "offset=",
    "size": "trials=",
    "totals": "trials=",
    "n_trials": "trials=",
    "status": "event=, 1 where it was seen",
    "censored": "event=, 0 where it was censored",
    "mask": "weights=, 0 for a row that is out",
}
FIT = {
    "alpha": PENALTY,
    "l1_ratio": PENALTY,
    "alphas": "torchglm.path(..., strength=...)",
    "lambda_": PENALTY,
    "lam": PENALTY,
    "C": f"{PENALTY}, l2 = 1 / (n C)",
    "l1": PENALTY,
    "l2": PENALTY,
    "fit_intercept": "intercept=",
    "hasconst": "intercept=",
    "maxiter": "max_iter=",
    "maxit": "max_iter=",
    "epsilon": "tol=",
    "gradient_tol": "tol=",
    "start_params": "start=",
    "cov_type": ROBUST,
    "cov_kwds": ROBUST,
    "vcov": ROBUST,
    "cluster": ROBUST,
    "clusters": ROBUST,
    "groups": "by= for a model for each group, (1 | group) in a formula for random effects",
    "group": "by= for a model for each group, (1 | group) in a formula for random effects",
    "re_formula": "(1 + x | group) in a formula",
    "subset": "the rows themselves: data[data.age > 30]",
    "na_action": "missing='drop'",
    "feature_names": "names=",
    "bounds": "lower= and upper=",
    "lower_bounds": "lower=",
    "upper_bounds": "upper=",
    "method": "nothing: IRLS is the only method",
    "solver": STEPS,
    "optimizer": STEPS,
    "lr": STEPS,
    "epochs": STEPS,
    "batch_size": STEPS,
    "random_state": "nothing: no number here is drawn",
    "seed": "nothing: no number here is drawn",
    "power": "family=torchglm.Tweedie(power)",
    "theta": "family=torchglm.NegativeBinomial(alpha=1 / theta)",
    "contrasts": "C(column, Sum) in the formula",
}
PREDICT = {
    "type": "kind=",
    "which": "kind=",
    "scale": "kind=",
    "linear": "kind='link'",
    "interval": "predict_interval(x)",
    "level": "predict_interval(x, level)",
    "se_fit": "se=True",
    "return_std": "se=True",
    "newdata": "the first argument",
    "exog": "the first argument",
    "data": "the first argument",
    "X": "the first argument",
}
PATH = {
    "cv": "folds=",
    "nfolds": "folds=",
    "n_folds": "folds=",
    "alphas": "strength=",
    "lambda_": "strength=",
    "lambdas": "strength=",
    "alpha": "l1_ratio=, the share of the absolute values, or strength=",
    "n_alphas": "n=",
    "nlambda": "n=",
    "penalty_factor": "factor=",
}
DOORS = {
    "fit": FIT,
    "predict": PREDICT,
    "path": {name: here for name, here in FIT.items() if name not in ("l1_ratio", "seed")} | PATH,
}


def refusal(door: str, strange: Iterable[str], known: Iterable[str]) -> str:
    """What is said of keywords that a door does not take: what stands for each, or the roles that it takes."""
    known = list(known)
    roles = {name: here for name, here in ROLES.items() if here.partition("=")[0] in known}
    elsewhere = roles | DOORS.get(door, {})
    said = [
        f"{name}=" + (f" (here it is {elsewhere[name]})" if name in elsewhere else nearest(name, known))
        for name in strange
    ]
    return f"{door} takes no {', '.join(said)}. What stands beside the rows is given by name: {', '.join(known)}."
