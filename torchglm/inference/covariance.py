"""Covariances of the coefficients: model, observed information, and sandwiches robust to the variance function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.families.several import VectorFamily
from torchglm.fitting.kernel import fold, take_family
from torchglm.fitting.moments import Point
from torchglm.fitting.penalties import Penalty
from torchglm.fitting.status import FitWarning
from torchglm.inference.apart import part_by_part
from torchglm.inference.beside import metric_of, shared_out
from torchglm.inference.clusters import POWERS, adjusted, in_order, labelled
from torchglm.inference.fitted import Fitted
from torchglm.inference.row_labels import row_labels
from torchglm.inference.rowwise import RowValues, leverage, row_values
from torchglm.inference.serial import serial
from torchglm.inference.several import expected_covariance
from torchglm.inference.vector.sandwich import heteroscedastic_several, scores_by_row
from torchglm.links import Identity, Link
from torchglm.rows.grams import Gram
from torchglm.rows.inverses import Root
from torchglm.rows.products import gram
from torchglm.rows.ranks import own_rows, ranks_of
from torchglm.rows.rows import Rows
from torchglm.writing.nearest import unknown
from torchglm.writing.warning import tell

SERIAL = ("HAC", "driscoll_kraay")
KINDS = ("model", "observed", "HC0", "HC1", "HC2", "HC3", "cluster", *SERIAL, "bayes")
ELSEWHERE = {  # names in other libraries
    "iid": "'model'",
    "nonrobust": "'model'",
    "oim": "'observed'",
    "hetero": "'HC1'",
    "robust": "'HC1'",
    "white": "'HC0'",
    "sandwich": "'HC0'",
    "CRV1": "'cluster', labels, type='HC1'",
    "CR1": "'cluster', labels, type='HC1'",
    "CRV2": "'cluster', labels, type='CR2'",
    "CR2": "'cluster', labels, type='CR2'",
    "CRV3": "'cluster', labels, type='CR3'",
    "CR3": "'cluster', labels, type='CR3'",
    "NW": "'HAC'",
    "newey_west": "'HAC'",
    "DK": "'driscoll_kraay'",
}

CORRECTIONS = ("HC0", "HC1", *POWERS)  # of a clustered covariance, as `vcovCL` and clubSandwich name them


def covariance(
    result: Fitted, kind: str, clusters: Any, type: str | None = None, lags: int | None = None, order: Any = None
) -> tuple[Tensor, Tensor | None]:
    """(B, p, p) a covariance of the flat models by its name, see `Result.covariance`; NaN for aliased columns.

    Beside it (B, p) the degrees of freedom of each coefficient, where the covariance has such.
    """
    clusters, order = row_labels(result, clusters, "clusters"), row_labels(result, order, "order")
    _check(result, kind, clusters, type, lags, order)
    if kind in SERIAL:
        units = None if clusters is None else cluster_codes(clusters, result.batch_shape, result.flat.coef.device)[0]
        return _where_known(result, serial(result, kind, units, order, lags)), None
    if type in POWERS:
        columns = cluster_codes(clusters, result.batch_shape, result.flat.coef.device)
        return _corrected(result, columns, type)
    return _plain(result, kind, clusters, type), None


def _corrected(result: Fitted, columns: list[Tensor], type: str) -> tuple[Tensor, Tensor]:
    """Clustered with a correction for leverage: of several labels by inclusion and exclusion, with the least df of one.

    Source: Cameron, Gelbach & Miller (2011), J. Bus. Econ. Stat. 29(2), with the corrected covariance of each.
    """
    flat, p = result.flat, result.flat.coef.shape[-1]
    signs, labels = crossed_labels(columns)
    total, least = torch.zeros_like(flat.coef).unsqueeze(-1), torch.full_like(flat.coef, torch.inf)
    for at, (sign, codes) in enumerate(zip(signs.tolist(), labels, strict=True)):
        metric = metric_of(result, codes, type)
        found, df = adjusted(metric.source, result.family, result.link, metric.coef, metric.root, codes, type)
        total = total + sign * found[:, :p, :p]
        least = torch.minimum(least, df[:, :p]) if at < len(columns) else least
    return _where_known(result, total), torch.where(flat.known, least, torch.nan)


def _where_known(result: Fitted, value: Tensor) -> Tensor:
    """A covariance with NaN for coefficients of which nothing is known."""
    known = result.flat.determined
    return torch.where(known.unsqueeze(-1) & known.unsqueeze(-2), value, torch.nan)


def _check(result: Fitted, kind: str, clusters: Any, type: str | None, lags: Any, order: Any) -> None:
    """Raise `ValueError` for a kind, and for what is told of it, that has no meaning for this fit."""
    if kind not in KINDS:
        raise ValueError(unknown("covariance", kind, KINDS, ELSEWHERE))
    if kind == "cluster" and clusters is None or clusters is not None and kind not in ("cluster", "HAC"):
        raise ValueError(
            "covariance('cluster') needs clusters=, a label for each row, and no other kind takes it but HAC, of which "
            "they are the units of a panel."
        )
    if (lags is not None or order is not None) and kind not in SERIAL:
        raise ValueError(f"lags= and order= are of {' and '.join(SERIAL)}, not of covariance({kind!r}).")
    if kind == "driscoll_kraay" and order is None:
        raise ValueError("covariance('driscoll_kraay') needs order=, the time of each row.")
    if type is not None and (kind != "cluster" or type not in CORRECTIONS):
        raise ValueError(
            f"type={type!r} with covariance({kind!r}): type= is of 'cluster' alone, {' or '.join(CORRECTIONS)}. "
            "HC0 to HC3 are kinds of their own."
        )
    expected = "observed" if result.plan is None else "model"
    if result.flat.multiplier is not None and kind == expected:
        raise ValueError(
            f"covariance({kind!r}) does not know the constraints of this fit. Use "
            f"{'model' if result.plan is None else 'observed'!r}, HC0 to HC3 or clusters, those given what binds."
        )
    if kind not in SERIAL and type not in POWERS:
        return
    what = f"covariance({kind!r})" if kind in SERIAL else f"type={type!r}"
    if result.plan is not None:
        raise ValueError(f"{what} is of fits of one predictor. Use type='HC0' with clusters for several.")
    if result.penalty is not None and type in POWERS:
        raise ValueError(f"{what} corrects for the leverage of clusters in a fit without a penalty. Use type='HC0'.")
    if kind in SERIAL and (result.batch_shape and order is not None and np.ndim(order) > 1):
        raise ValueError("order= holds one time for each row, (n,), for all models of the batch.")


def _plain(result: Fitted, kind: str, clusters: Any, type: str | None) -> Tensor:
    """(B, p, p) the covariances that bring no degrees of freedom."""
    if kind == "bayes":
        if result.penalty is None:
            raise ValueError(
                "covariance('bayes') is that of a penalised fit, and this one has no penalty. Use 'model'."
            )
        kind = "model"
    flat = result.flat
    coef, keep, root = flat.coef, flat.keep, flat.root
    nobs, rank, phi = flat.nobs, flat.df, flat.dispersion[:, None, None]
    family, link = result.family, result.link
    if result.plan is not None and kind in ("model", "observed"):
        return result.flat_covariance if kind == "observed" else expected_covariance(result)
    if kind == "model":
        return result.model_covariance
    if kind == "observed":
        value = phi * observed_inverse(result.source, family, link, coef, keep, result.penalty)
    elif kind == "cluster":
        columns = cluster_codes(clusters, result.batch_shape, coef.device)
        value = clustered(
            result.scored, family, link, coef, root, columns, flat.rank if flat.absorbed is None else flat.keep.sum(-1)
        )
        if type == "HC1" or type is None and family.least_squares and isinstance(link, Identity):
            value = ((nobs - 1) / (nobs - rank))[:, None, None] * value
    else:
        sandwich = heteroscedastic if result.plan is None else heteroscedastic_several
        value = part_by_part(result, lambda part: sandwich(part, kind))
    return _where_known(result, value)


def observed_inverse(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    coef: Tensor,
    keep: Tensor,
    penalty: Penalty | str | None = None,
) -> Tensor:
    """(B, p, p) the inverse of the observed information for `phi = 1`; NaN where it is not positive definite.

    It holds the curvature of a penalty. Raises `ValueError` for one that is known by its name alone (a loaded fit's).
    """
    if isinstance(penalty, str):
        raise ValueError(f"the observed covariance needs the penalty itself, and a loaded fit knows it as {penalty}.")
    moments = fold(source, Point(coef, True, census=True), family, link)
    ridge = None if penalty is None else penalty.ridge(coef, moments.weight)
    inverse = moments.gram.with_ridge(ridge).invert(keep)
    return inverse.root.only(inverse.positive).inverse()


def heteroscedastic(result: Fitted, kind: str) -> Tensor:
    """(B, p, p) the sandwich `A^-1 (sum u^2 x x') A^-1` of White, with the corrections HC0 to HC3.

    `u` is the weighted score of a row, `A` the expected information; HC1 multiplies by `n / (n - p)`, HC2 and
    HC3 divide `u^2` by `1 - h` and `(1 - h)^2`; a row repeated by `freq` counts as that many rows.
    Source: Zeileis (2006), J. Stat. Software 16(9).
    """
    flat, ranks = result.flat, ranks_of(result.scored)
    root, nobs, rank = flat.root, flat.nobs, flat.df
    power = {"HC0": 0, "HC1": 0, "HC2": 1, "HC3": 2}[kind]

    def squares(each: Iterator[RowValues]) -> Gram | None:
        """`sum u^2 x x'` of rows; None without any."""
        total = None
        for values in each:
            square = values.score.square() / values.repeats
            if power:
                # a row of leverage one is fitted exactly: 0 / 0, and as in the sandwich package nothing is said
                left = 1 - leverage(values, root) / values.repeats
                square = square / torch.where(left > 1e-9, left, torch.nan).pow(power)
            own = gram(values.rows, torch.where(values.used, square, 0.0))
            total = own if total is None else total + own
        return total

    with ranks.together():
        if power:
            found = shared_out(result, squares)
        else:
            found = [squares(row_values(own_rows(result.scored), result.family, result.link, flat.coef))]
    meat = found[0]
    assert meat is not None  # every process has rows
    for own in found[1:]:
        meat = meat if own is None else meat + own
    parts = meat.parts
    meat = meat.of(dict(zip(parts, ranks.sum(*parts.values()), strict=True)))
    scale = (nobs / (nobs - rank))[:, None, None] if kind == "HC1" else 1.0
    return scale * _sandwich(root, meat.written_out())


def clustered(
    source: Iterable[Rows],
    family: Family,
    link: Link,
    coef: Tensor,
    root: Root,
    columns: list[Tensor],
    rank: Tensor,
) -> Tensor:
    """(B, p, p) the sandwich clustered by one label or by several, as `vcovCL(type = "HC0")` of sandwich gives it.

    `columns` are codes (n,) or (B, n), see `cluster_codes`. The meat of one label is `G / (G - 1)` times the sum over
    its `G` clusters of the squared score sums; several labels add with the sign of inclusion and exclusion
    (`V_1 + V_2 - V_12`, which need not be positive definite). NaN for a model with one cluster. Raises `ValueError` for
    another number of rows or where no model has two clusters; warns of fewer clusters than coefficients.
    Source: Cameron, Gelbach & Miller (2011), J. Bus. Econ. Stat. 29(2); Zeileis, Koell & Graham (2020), J. Stat.
    Software 95(1).
    """
    signs, labels = crossed_labels(columns)
    found = [
        _cluster_sums(rows, take_family(family, models), link, coef[models], own)
        for models, rows, own in labelled(source, labels, *coef.shape)
    ]
    groups, squares = (torch.cat(part, 1) for part in zip(*found, strict=True))
    groups, squares = (in_order(source, value, 1) for value in (groups, squares))
    _judge(groups[: len(columns)].amin(0), rank)
    scale = groups / torch.where(groups > 1, groups - 1, torch.nan) * signs.to(groups).unsqueeze(-1)
    meat = (scale[..., None, None] * squares).sum(0)
    return _sandwich(root, meat)


def _cluster_sums(
    source: Iterable[Rows], family: Family, link: Link, coef: Tensor, labels: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """(L, B) the clusters with weight of each label, and (L, B, p, p) the sum of their squared score sums."""
    models, p = coef.shape
    sums = [coef.new_zeros(models, int(codes.max()) + 1, p) for codes in labels]
    present = [coef.new_zeros(part.shape[:2]) for part in sums]
    start = 0
    for rows, used in _row_scores(source, family, link, coef):
        n = used.shape[-1]
        for codes, total, seen in zip(labels, sums, present, strict=True):
            index = codes[..., start : start + n].expand(models, -1)
            if index.shape[-1] != n:
                raise ValueError(f"clusters has {codes.shape[-1]} labels, fewer than the rows. Give one for each row.")
            total.scatter_add_(1, index.unsqueeze(-1).expand(models, n, p), rows)
            seen.scatter_add_(1, index, used.to(seen.dtype))
        start += n
    if start != labels[0].shape[-1]:
        raise ValueError(f"clusters has {labels[0].shape[-1]} labels for {start} rows. Give one for each row.")
    groups = torch.stack([(seen > 0).sum(-1).to(coef.dtype) for seen in present])
    return groups, torch.stack([total.mT @ total for total in sums])


def _row_scores(source: Iterable[Rows], family: Family, link: Link, coef: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, n, p) the scores of the rows of every chunk, and (B, n) which rows have weight."""
    if isinstance(family, VectorFamily):
        yield from scores_by_row(source, family, coef)
        return
    for values in row_values(source, family, link, coef):
        yield values.score.unsqueeze(-1) * values.x, values.used


def crossed_labels(columns: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The sign (L,) and the codes of every set of label columns, the single columns first."""
    signs, labels = [1] * len(columns), list(columns)
    for size in range(2, len(columns) + 1):
        for chosen in combinations(columns, size):
            whole = chosen[0]
            for codes in chosen[1:]:
                whole = torch.unique(whole * (int(codes.max()) + 1) + codes, return_inverse=True)[1]
            signs.append(-1 if size % 2 == 0 else 1)
            labels.append(whole)
    return torch.tensor(signs), labels


def _judge(groups: Tensor, rank: Tensor) -> None:
    """Say what too few clusters do."""
    if not bool((groups > 1).any()):
        raise ValueError("clusters holds one cluster; a clustered covariance needs at least two.")
    few = groups < rank
    if bool(few.any()):
        least = int(groups[few].min())
        tell(
            f"{least} clusters are fewer than the {int(rank[few].max())} coefficients: the clustered "
            f"covariance is singular, and a joint test of more than {least - 1} of them has no value.",
            FitWarning,
        )


def cluster_codes(clusters: Any, batch: torch.Size, device: torch.device) -> list[Tensor]:
    """Labels of any kind as codes 0, 1, ...: one tensor (n,) or (B, n) for each label column.

    `clusters` is one column (a tensor, array, series or list, `(n,)` or `(*B, n)`) or several: a frame, a dict, a
    tuple or list of columns, or for one model an array `(n, k)`. Raises `ValueError` for missing labels.
    """
    return [_codes(column, batch).to(device) for column in _label_columns(clusters, batch)]


def _label_columns(clusters: Any, batch: torch.Size) -> list[Any]:
    if isinstance(clusters, dict):
        return list(clusters.values())
    if not isinstance(clusters, (Tensor, np.ndarray)) and hasattr(clusters, "columns"):
        return [clusters[name] for name in clusters.columns]
    if isinstance(clusters, (list, tuple)) and clusters and np.ndim(_array(clusters[0])) > 0:
        return list(clusters)
    array = _array(clusters)
    return list(array.T) if array.ndim == 2 and not batch else [array]


def _array(labels: Any) -> np.ndarray:
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)


def _codes(labels: Any, batch: torch.Size) -> Tensor:
    array = _array(labels)
    if array.dtype.kind == "O":
        missing = np.array([v is None or str(v) in ("<NA>", "NaT") or v != v for v in array.reshape(-1)])
    else:
        missing = np.atleast_1d(array != array)
    if missing.any():
        raise ValueError(f"clusters holds {int(missing.sum())} missing labels. Drop those rows, or give them a label.")
    if array.ndim == 0 or array.shape[:-1] not in ((), tuple(batch)):
        raise ValueError(f"clusters has shape {array.shape}; give one label for each row, (n,) or {(*batch, 'n')}.")
    codes = np.unique(array.astype(str) if array.dtype.kind == "O" else array, return_inverse=True)[1]
    return torch.from_numpy(codes.reshape(-1, array.shape[-1]) if array.ndim > 1 else codes.reshape(-1))


def _sandwich(root: Root, meat: Tensor) -> Tensor:
    bread = root.inverse()
    return bread @ meat @ bread
