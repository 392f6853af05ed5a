"""What the tests on a CUDA device share: problems moved there, and what a fit there must agree in with one here."""

from __future__ import annotations

import torch
from problems import Problem, close

from torchglm import Result

DEVICE = "cuda"


def moved(data: Problem) -> Problem:
    """The problem with its tensors on the device."""
    return data.change(data.x.to(DEVICE), data.y.to(DEVICE), **{k: v.to(DEVICE) for k, v in data.rows.items()})


def there(result: Result) -> None:
    """Everything a fit says lies on the device, in float64."""
    for name in ("coef", "std_err", "p_value", "deviance", "null_deviance", "loglik", "dispersion", "converged"):
        assert getattr(result, name).device.type == DEVICE, name
    assert result.coef.dtype == torch.float64


def agree(got: Result, want: Result, rtol: float = 1e-9) -> None:
    """A fit on the device says what one on the CPU says."""
    there(got)
    for name in ("deviance", "null_deviance", "dispersion", "pearson_chi2", "loglik", "aic"):
        close(getattr(got, name).cpu(), getattr(want, name), rtol, 1e-8)
    close(got.coef.cpu(), want.coef, rtol, want.std_err.nan_to_num(1.0))
    close(got.std_err.cpu(), want.std_err, rtol)
    close(got.p_value.cpu(), want.p_value, 1e-6, 1e-12)
    assert got.status == want.status
