"""What a head and a loss of one's own predictors share where a family has several: the loss and the law of `eta`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchglm.families import Family
from torchglm.families.several import Classes, VectorFamily
from torchglm.inputs import Roles
from torchglm.links import Identity, Link
from torchglm.model.closed_form import Closed
from torchglm.model.eta_loss import EtaLoss, wide
from torchglm.model.law import VectorLaw
from torchglm.model.vector_beyond import continued_nll, harmless, known_nll
from torchglm.model.vector_parts import constant_shapes
from torchglm.rows.responses import Counts, Response, filled
from torchglm.special.tracing import values_are_known
from torchglm.writing.answering import answering_methods


@answering_methods
class VectorEtaLoss(EtaLoss):
    """A family of several predictors, and what it says at predictors `eta` (K, *N, out_features)."""

    family: VectorFamily
    dispersion_kind = "1.0"  # the family has none beside its predictors
    whole_density = True

    def set_predictors(self, family: VectorFamily, device: torch.device, dtype: torch.dtype | None) -> None:
        """Take a copy of a family, what is learned elsewhere being constant in it."""
        precise = wide(torch.get_default_dtype() if dtype is None else dtype)
        self.family = constant_shapes(family).to(device=device, dtype=precise)

    @property
    def link(self) -> Link:  # type: ignore[override]
        """The link of the first predictor; the identity while classes are not known."""
        unknown = isinstance(self.family, Classes) and self.family.classes is None
        return Identity() if unknown else self.family.default_link

    def know(self) -> None:
        """Raise `ValueError` while classes are not known."""
        if isinstance(self.family, Classes):
            assert self.family.known

    def know_dispersion(self) -> None:
        """Raise `ValueError` while classes are not known: the dispersion is one of the predictors."""
        self.know()

    def _log_phi(self) -> None:
        return None

    def loss_at(
        self, eta: Tensor, y: Tensor, beside: Roles, log_phi: Tensor | None, dropped: Tensor | None
    ) -> tuple[Tensor | Closed, Tensor | None]:
        """The loss of each row at predictors `eta`, and its weight, None where it is 1 in all of them.

        Rows that are `dropped` may hold anything.
        """
        beside = beside.map(lambda name, value: self.per_response(value, eta[0], name))
        y = self.per_response(y, eta[0], "y")
        if beside.weight is None:
            response, factor = self.family.encode(y, **beside.of_response)
            if factor is None:
                self._check_classes(response)
                known = known_nll(self.family, response, eta)
                return continued_nll(self.family, response, eta) if known is None else known, None
        used = torch.ones_like(y, dtype=torch.bool) if beside.weight is None else beside.weight > 0
        y, beside = beside.readable(y, used)
        response, factor = self.family.encode(y, **beside.of_response)
        w = torch.ones_like(y) if beside.weights is None else beside.weights
        w = w if factor is None else w * factor
        freq = torch.ones_like(y) if beside.freq is None else beside.freq
        used = (w > 0) & (freq > 0)
        if isinstance(response, Counts):
            response = Counts(torch.where(used, response.size, 0.0), torch.where(used, response.trials, 1.0))
        else:
            response = filled(response, used, self.family.inner_mean)
        self._check_classes(response)
        if dropped is not None:
            eta = torch.where(used, eta, harmless(self.family, response, eta.detach()))
        return self._row_loss(response, eta, w, torch.where(used, freq, 0.0)), torch.where(used, w * freq, 0.0)

    def law_at(self, eta: Tensor, trials: Tensor | None = None) -> VectorLaw:
        """The law of a response at predictors `eta` (K, *N), made from `eta`; of classes that of their codes."""
        self.know()
        return VectorLaw(self.family, eta, trials)

    def _row_loss(self, y: Response, eta: Tensor, w: Tensor, freq: Tensor) -> Tensor:  # type: ignore[override]
        """The loss of each row: prior weights divide the dispersion, where there is one, and multiply the rest."""
        name = self.family.weighted
        if name is not None:
            prior = torch.where(w > 0, w, 1.0).log()
            own = torch.arange(len(eta), device=eta.device) == self.family.predictors.index(name)
            eta = eta - own.reshape(-1, *[1] * prior.dim()) * prior
        times = freq if name is not None else w * freq
        return torch.where(times > 0, times, 0.0) * continued_nll(self.family, y, eta)

    def _check_classes(self, y: Response) -> None:
        if not isinstance(self.family, Classes) or not values_are_known(y) or y.is_cuda:
            return
        y = y.detach()
        if (
            y.numel()
            and bool(torch.equal(y, y.floor()))
            and 0 <= float(y.amin())
            and float(y.amax()) < len(self.family.known)
        ):
            return
        good = self.family.supports(y)
        if not bool(good.all()):
            raise ValueError(
                f"y holds {float(y[~good][0]):g}, which is no code of the classes {self.family.known}. Codes are 0 to "
                f"{len(self.family.known) - 1}, in the order of the classes."
            )

    def set_shapes_(self, family: Family) -> None:
        """Take the tensors of a family of this head's kind."""
        self.family.load_state_dict(family.state_dict())

    @property
    def dispersion(self) -> Tensor:
        """Not one number: raises `ValueError`."""
        raise ValueError(
            "a family of several predictors has no dispersion of its own: that is the parameter of one of them."
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VectorEtaLoss:
        nn.Module._apply(self, fn, recurse)
        return self
