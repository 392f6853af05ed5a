"""What a fit says of the strengths of its quadratic penalty."""

from __future__ import annotations

from torch import Tensor

from torchglm.inference.fitted import Fitted


def strength(result: Fitted) -> Tensor:
    """(*B, J) the strengths of the blocks of a `Quadratic` penalty, on the scale of its matrices.

    Infinite where that is the limit, see `Status.STRENGTH_LIMIT`. Raises `ValueError` for another penalty or none.
    """
    if result.flat.strength is None:
        raise ValueError("strength is that of a Quadratic penalty, or of Ridge('reml'); this fit has none.")
    return result.shaped(result.flat.strength)


def criterion(result: Fitted) -> Tensor:
    """(*B) the negative log marginal likelihood by which strengths were estimated, see `fitting.laplace`.

    Raises `ValueError` where no strength was estimated.
    """
    if result.flat.criterion is None:
        raise ValueError(
            "criterion is that of estimated strengths or random effects: Quadratic(blocks, 'reml'), or (1 | g)."
        )
    return result.shaped(result.flat.criterion)
