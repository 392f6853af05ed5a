"""WithLoss: a network whose call is its loss, so that what wraps calls sees all of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from torchglm.inputs import Roles
from torchglm.model.layer import GLMLayer
from torchglm.model.network import readable, split
from torchglm.nn.heads import Heads
from torchglm.writing.answering import answering_init
from torchglm.writing.short import Short


@answering_init
class WithLoss(nn.Module, metaclass=Short):
    """`WithLoss(network)(x, y, **roles)` is the loss of a batch.

    `DistributedDataParallel`, FSDP, `torch.compile` and `torch.func.functional_call` wrap calls: around a network they
    miss a loss that is taken beside it (and DDP then adds no gradients). `model` is a `GLMHead`, an `nn.Sequential`
    that ends in one, a module with `.backbone` and `.head`, or one in which `head` names its head; with `loss`, such as
    a `GLMLoss`, any network whose output that takes, `loss(model(x), y, **roles)`; `Heads` take what it puts out for
    their features. What rows of weight 0 hold reaches no gradient. Parameters are under `model.` and `loss.`.
    Raises `ValueError` for a model without a head where no `loss` is given.
    """

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor] | None = None, *, head: str | None = None) -> None:
        super().__init__()
        if loss is not None and head is not None:
            raise ValueError("loss= takes what the model puts out, head= names where its loss is. Give one of them.")
        self.model, self.loss, self.head = model, loss, head
        if loss is None:
            split(model, head)  # a model without a head is told now

    def forward(self, x: Any, y: Any, **roles: Any) -> Tensor:
        """The loss of a batch."""
        x = readable(x, Roles.of(roles, "WithLoss")) if not self._by_name(roles) else x
        if self.loss is not None:
            take = self.loss.loss if isinstance(self.loss, Heads) else self.loss
            return take(self.model(x), y, **roles)
        before, head = split(self.model, self.head)
        assert isinstance(head, GLMLayer)
        return head.loss(x if before is None else before(x), y, **roles)

    @staticmethod
    def _by_name(roles: dict[str, Any]) -> bool:
        """Whether roles stand apart for each of several heads."""
        return any(isinstance(value, dict) for value in roles.values())
