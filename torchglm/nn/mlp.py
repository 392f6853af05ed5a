"""MLP: layers between columns and a head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchglm.writing.answering import answering_init
from torchglm.writing.short import Short

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@answering_init
class MLP(nn.Module, metaclass=Short):
    """Linear layers of these `widths`, each with an activation and dropout behind it: `(*N, p)` to `(*N, widths[-1])`.

    A backbone for a head: `nn.Sequential(MLP(6, [32, 16]), GLMHead(16, "poisson"))`, and in YAML.
    Raises `ValueError` for no width, a width below 1 and an unknown activation.
    """

    def __init__(
        self, in_features: int, widths: Sequence[int] = (32, 16), activation: str = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ValueError(f"widths must be numbers of at least 1, such as [32, 16], got {list(widths)}.")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: got {activation!r}. Known: {', '.join(ACTIVATIONS)}.")
        layers: list[nn.Module] = []
        for columns, width in zip([in_features, *widths], widths, strict=False):
            layers += [nn.Linear(columns, width), ACTIVATIONS[activation]()]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        return self.layers(x)
