"""A path on disk: its numbers, and the fits at its strengths as `storage` writes them, in one folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path as Folder
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from torchglm.families import Family
from torchglm.fitting.kernel import take_family
from torchglm.fitting.lanes import Terms
from torchglm.inference.fitted import Fitted
from torchglm.links import Link
from torchglm.model import codec, storage
from torchglm.model.saved_facts import check_tensors
from torchglm.writing.files import replaced

FORMAT = 1
MARK = "path.json"
FITS = "fits"
NUMBERS = ("strength", "coef", "df", "dev_ratio", "kkt", "fold_deviance", "cv_mean", "cv_se")
WEIGHTS = ("absolute", "square", "lower", "upper")


@dataclass(frozen=True)
class Saved:
    """What a folder holds of a path beside its numbers.

    `fitted` are the fits at `lanes` (S,), ascending, of the flat models times strengths; `likelihoods` the
    log-likelihood and parameters (*B, L) of all points and the rows (*B, 1).
    """

    lanes: Tensor
    fitted: Fitted
    likelihoods: tuple[Tensor, Tensor, Tensor]

    def at(self, lanes: Tensor, batch: torch.Size) -> Fitted:
        """The fits at some points, with batch dimensions. Raises `ValueError` for one that is not held."""
        at = torch.searchsorted(self.lanes, lanes).clamp(max=len(self.lanes) - 1)
        if not torch.equal(self.lanes[at], lanes):
            raise ValueError(
                "the fit at this strength was not saved: the Grams of all would have been too large. Select 'best', "
                "'one_se', 'aic', 'bic' or 'ebic', or select on the path itself before saving."
            )
        fitted = self.fitted
        return replace(
            fitted,
            flat=fitted.flat.take(at),
            family=take_family(fitted.family, at if batch else at[0]),
            batch_shape=batch,
        )


def save(path: Any, folder: Any, saved: Saved) -> None:
    """Write `path.json`, `path.pt` and the fits into a folder, made where it is missing."""
    place = Folder(folder)
    storage.save(saved.fitted, place / FITS)
    facts, held = codec.encode(path.family, path.link)
    numbers = {name: value for name in NUMBERS if (value := getattr(path, name)) is not None}
    weights = {f"weights.{name}": getattr(path.weights, name) for name in WEIGHTS}
    likelihoods = dict(zip(("loglik", "parameters", "nobs"), saved.likelihoods, strict=True))
    tensors = {"lanes": saved.lanes, **numbers, **weights, **{f"of.{k}": v for k, v in likelihoods.items()}}
    with replaced(place / "path.pt") as draft:
        torch.save({name: value.cpu().contiguous() for name, value in tensors.items()} | held, draft)
    with replaced(place / MARK) as draft:
        known = {"format": FORMAT, "names": path.names, "l1_ratio": path.l1_ratio, **facts}
        known["shape"] = None if path.shape is None else str(path.shape)
        draft.write_text(json.dumps(known, indent=1))


def holds(folder: Any) -> bool:
    """Whether a folder is that of a path."""
    return (Folder(folder) / MARK).is_file()


def load(folder: Any, family: Family | None = None, link: Link | None = None) -> dict[str, Any]:
    """What a `Path` is made of. Raises `ValueError` where the folder does not hold a whole one."""
    place = Folder(folder)
    try:
        facts = json.loads((place / MARK).read_text())
        if facts["format"] != FORMAT:
            raise ValueError(f"{place} has format {facts['format']}, this version reads {FORMAT}. Save it again.")
        tensors = torch.load(place / "path.pt", weights_only=True)
        check_tensors(tensors)
        own, via = codec.decode(facts, tensors, place, family, link)
        found = {name: tensors[name] for name in NUMBERS if name in tensors}
        _check(found, facts)
        likelihoods = tuple(tensors[f"of.{name}"] for name in ("loglik", "parameters", "nobs"))
        fitted = storage.load(place / FITS, family, link)
        if fitted.names != facts["names"][: len(fitted.names)] or fitted.flat.status.shape != tensors["lanes"].shape:
            raise TypeError("the fits are not those of the path")
        return {
            **found,
            "names": facts["names"],
            "l1_ratio": float(facts["l1_ratio"]),
            "family": own,
            "link": via,
            "shape": facts.get("shape"),
            "weights": Terms(*(tensors[f"weights.{name}"] for name in WEIGHTS)),
            "saved": Saved(tensors["lanes"], fitted, likelihoods),
        }
    except (OSError, EOFError, KeyError, TypeError, AttributeError, RuntimeError, UnpicklingError) as error:
        raise ValueError(
            f"{place} does not hold a whole saved path ({type(error).__name__}: {error}). Save it again."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{place / MARK} is no JSON ({error}). Save the path again.") from error


def _check(found: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Raise `TypeError` for numbers whose shapes do not go together."""
    shape, columns = found["kkt"].shape, len(facts["names"])
    want = {
        "coef": (*shape, columns),
        "df": shape,
        "dev_ratio": shape,
        "cv_mean": shape,
        "cv_se": shape,
    }
    for name, size in want.items():
        if name in found and found[name].shape != torch.Size(size):
            raise TypeError(f"{name} has shape {tuple(found[name].shape)}, expected {tuple(size)}")
    if found["strength"].shape not in (shape, shape[-1:]):
        raise TypeError(f"strength has shape {tuple(found['strength'].shape)}, expected {tuple(shape[-1:])}")
