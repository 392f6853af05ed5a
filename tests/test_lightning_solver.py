"""The SGD solver: the coefficients of IRLS on real data and for every family, on columns of any scale."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from pyarrow import parquet
from torch import Tensor

import torchglm
from torchglm import families
from torchglm.design import build
from torchglm.model.face import GLMHead
from torchglm.tables import read_table
from torchglm.training import ArrowBatches, GLMBatch, TensorBatches, fit_sgd

RANDHIE = Path(__file__).parent.parent / "examples/data/randhie.parquet"
FORMULA = "visits ~ log_coinsurance + C(health) + income + age + chronic + year"


def lbfgs(parameters: object) -> torch.optim.LBFGS:
    return torch.optim.LBFGS(
        parameters, max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )


def joined(head: GLMHead) -> Tensor:
    """Bias and weight as one vector (p + 1,)."""
    return torch.cat([head.bias, head.weight[0]]).detach().double()


@pytest.fixture(scope="module")
def randhie() -> tuple[GLMBatch, torchglm.Result]:
    design = build(FORMULA, read_table(RANDHIE))
    x, y = design.x[:, 1:], design.y
    weight = 0.5 + torch.rand(len(y), generator=torch.Generator().manual_seed(0), dtype=y.dtype)
    offset = weight.log() / 2
    result = torchglm.fit(x, y, family="poisson", weights=weight, offset=offset)
    return GLMBatch(x, y, weights=weight, offset=offset), result


def test_lbfgs_is_irls(randhie: tuple[GLMBatch, torchglm.Result]) -> None:
    rows, result = randhie
    head = GLMHead(rows.x.shape[1], "poisson", dtype=torch.float64)
    done = fit_sgd(head, rows, optimizer=lbfgs, trainer={"max_epochs": 3})
    assert (joined(head) - result.coef).abs().max() < 1e-6
    assert done.distance < 1e-5 and done.epochs == 3


def test_lbfgs_in_float32(randhie: tuple[GLMBatch, torchglm.Result]) -> None:
    rows, result = randhie
    head = GLMHead(rows.x.shape[1], "poisson")
    fit_sgd(head, GLMBatch(*(None if v is None else v.float() for v in rows)), optimizer=lbfgs)
    assert ((joined(head) - result.coef).abs() < 5e-3 * result.std_err).all()


def test_sgd_is_irls_to_a_fraction_of_a_standard_error(randhie: tuple[GLMBatch, torchglm.Result]) -> None:
    rows, result = randhie
    head = GLMHead(rows.x.shape[1], "poisson", dtype=torch.float64)
    done = fit_sgd(head, rows, trainer={"max_epochs": 60})
    share = float(((joined(head) - result.coef).abs() / result.std_err).max())
    assert share < 0.5
    assert done.distance == pytest.approx(share, rel=0.05)
    assert done.steps == 60 * 3


def test_gradient_descent_on_all_rows_is_irls(randhie: tuple[GLMBatch, torchglm.Result]) -> None:
    rows, result = randhie
    head = GLMHead(rows.x.shape[1], "poisson", dtype=torch.float64)
    fit_sgd(head, rows, batch_size=None, trainer={"max_epochs": 80})
    assert (joined(head) - result.coef).abs().max() < 1e-4


def test_polish_ends_at_the_optimum(randhie: tuple[GLMBatch, torchglm.Result]) -> None:
    rows, result = randhie
    head = GLMHead(rows.x.shape[1], "poisson", dtype=torch.float64)
    done = fit_sgd(head, rows, polish=3)
    assert (joined(head) - result.coef).abs().max() < 1e-10 and done.distance < 1e-8


def test_streaming_from_parquet(tmp_path: Path, randhie: tuple[GLMBatch, torchglm.Result]) -> None:
    table = read_table(RANDHIE)
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=3000)
    spec = build(FORMULA, table).spec
    rows = ArrowBatches(tmp_path, spec, batch_size=1024, shuffle=True)
    head = GLMHead(rows.in_features, "poisson")
    fit_sgd(head, rows, trainer={"max_epochs": 3}, polish=3)
    result = torchglm.fit(FORMULA, table, family="poisson")
    assert ((joined(head) - result.coef).abs() < 1e-3 * result.std_err).all()


SHAPES = {"negative_binomial": {"alpha": 0.5}, "tweedie": {"power": 1.5}}


@pytest.mark.parametrize("name", families.names())
def test_every_family(name: str) -> None:
    rng = torch.Generator().manual_seed(2)
    n = 3000
    x = torch.rand(n, 2, generator=rng, dtype=torch.float64)
    x[:, 1] = 0.9 * x[:, 0] + 0.1 * x[:, 1]  # correlated
    x = x * x.new_tensor([1.0, 1000.0]) + x.new_tensor([0.0, 1e3])  # and on raw scales
    family = families.get(name, **SHAPES.get(name, {}))
    eta = 0.5 + x[:, 0] - (x[:, 1] - 1e3) / 2000
    mu = 500 + 100 * eta if name in ("gaussian", "normal") else (eta.sigmoid() if family.mean_upper == 1 else eta.exp())
    torch.manual_seed(3)
    y = family.distribution(mu).sample().to(x.dtype)
    y = y.clamp(min=1e-3) if name in ("gamma", "exponential", "inverse_gaussian") else y
    link = "log" if name in ("gamma", "inverse_gaussian") else None
    head = GLMHead(2, family, link, dtype=torch.float64)
    first = fit_sgd(head, GLMBatch(x, y), batch_size=512)
    assert first.distance < 1.5
    fit_sgd(head, GLMBatch(x, y), optimizer=lbfgs, trainer={"max_epochs": 5})
    result = torchglm.fit(x, y, family=family, link=link)
    torch.testing.assert_close(joined(head), result.coef, rtol=1e-4, atol=1e-5)


def test_a_shape_parameter_is_learned_with_the_rest() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 2, dtype=torch.float64)
    family = families.NegativeBinomial(0.7)
    y = family.distribution(torch.exp(1 + 0.3 * x[:, 0])).sample().double()
    head = GLMHead(2, families.NegativeBinomial(), dtype=torch.float64)
    fit_sgd(head, GLMBatch(x, y), optimizer=lbfgs)
    result = torchglm.fit(x, y, family=families.NegativeBinomial())
    assert float(head.family.alpha) == pytest.approx(float(result.family.alpha), rel=1e-4)
    torch.testing.assert_close(joined(head), result.coef, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "polish"),
    [("negative_binomial", 3), ("negative_binomial", "irls"), ("tweedie", 4), ("tweedie", "irls"), ("poisson", "irls")],
)
def test_polish_ends_at_the_optimum_and_fits_the_shape_too(family: str, polish: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 2, dtype=torch.float64)
    y = torch.poisson(torch.exp(1 + 0.3 * x[:, 0]) * torch.distributions.Gamma(1.5, 1.5).sample((400,)).double())
    head = GLMHead(2, family, dtype=torch.float64)
    done = fit_sgd(head, GLMBatch(x, y), batch_size=64, trainer={"max_epochs": 3}, polish=polish)
    result = torchglm.fit(x, y, family=family)
    assert done.status.name == "CONVERGED" and done.distance < 1e-3
    assert float(((joined(head) - result.coef) / result.std_err).abs().max()) < (1e-6 if polish == "irls" else 1e-3)
    for one, other in zip(head.family.parameters(), result.family.parameters(), strict=True):
        torch.testing.assert_close(one, other.to(one), rtol=1e-5, atol=0)


def test_a_shape_far_from_the_best_one_is_not_converged() -> None:
    torch.manual_seed(0)
    x = torch.randn(2000, 2, dtype=torch.float64)
    y = torch.poisson(torch.exp(1 + 0.3 * x[:, 0]))
    head = GLMHead(2, "negative_binomial", dtype=torch.float64)
    done = fit_sgd(head, GLMBatch(x, y), batch_size=256, trainer={"max_epochs": 3})
    assert done.status.name == "ITERATION_LIMIT" and done.distance > 1
    polished = fit_sgd(head, GLMBatch(x, y), batch_size=256, trainer={"max_epochs": 3}, polish=3)
    result = torchglm.fit(x, y, family="negative_binomial")  # nearly Poisson: alpha may end on its limit
    assert polished.status.name == result.status.name
    assert float(head.family.alpha.detach()) == pytest.approx(float(result.family.alpha.detach()), abs=1e-6)


def test_polish_is_quadratic_where_times_are_censored() -> None:
    torch.manual_seed(0)
    x = torch.randn(800, 2, dtype=torch.float64)
    time, end = torch.distributions.Exponential(torch.exp(-x[:, 0])).sample(), torch.rand(800).double() * 2 + 0.1
    rows = GLMBatch(x, torch.minimum(time, end), event=(time <= end).double())
    head = GLMHead(2, "exponential", dtype=torch.float64)
    fit_sgd(head, rows, batch_size=64, trainer={"max_epochs": 5}, polish=3)
    result = torchglm.fit(x, rows.y, family="exponential", event=rows.event)
    assert float(((joined(head) - result.coef) / result.std_err).abs().max()) < 1e-6


@pytest.mark.parametrize("intercept", [True, False])
def test_penalty_and_no_intercept(intercept: bool) -> None:
    torch.manual_seed(0)
    x = 2 + torch.randn(500, 3, dtype=torch.float64) * x_scale()
    y = torch.poisson(torch.exp(0.2 * x[:, 0]))
    penalty = torchglm.Ridge(torch.tensor([0.1, 1.0, 0.0]))
    head = GLMHead(3, "poisson", bias=intercept, dtype=torch.float64)
    fit_sgd(head, GLMBatch(x, y), optimizer=lbfgs, penalty=penalty)
    result = torchglm.fit(x, y, family="poisson", penalty=penalty, intercept=intercept)
    found = joined(head) if intercept else head.weight[0].detach()
    torch.testing.assert_close(found, result.coef, rtol=1e-5, atol=1e-6)


def x_scale() -> Tensor:
    return torch.tensor([1.0, 0.3, 5.0], dtype=torch.float64)


def test_aliased_and_constant_columns_have_a_least_norm_answer() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 4, dtype=torch.float64)
    x[:, 2], x[:, 3] = x[:, 0], 7.0
    y = torch.poisson(torch.exp(0.5 + 0.4 * x[:, 0] - 0.2 * x[:, 1]))
    head = GLMHead(4, "poisson", dtype=torch.float64)
    done = fit_sgd(head, GLMBatch(x, y), optimizer=lbfgs)
    result = torchglm.fit(x[:, :2], y, family="poisson")
    weight = head.weight[0].detach()
    torch.testing.assert_close(weight[0], weight[2])
    found = torch.stack([weight[0] + weight[2], weight[1]])
    torch.testing.assert_close(found, result.coef[1:], rtol=1e-5, atol=0)
    assert weight[3] == 0 and done.distance < 1e-4


@pytest.mark.parametrize("given", [{"max_epochs": 3}, {"max_steps": 11}, {"max_epochs": 4, "max_steps": 9}, {}])
@pytest.mark.parametrize("decay", [True, False])
def test_the_plain_loop_makes_the_steps_of_a_trainer(
    given: dict[str, int], decay: bool, tmp_path: Path, randhie: tuple[GLMBatch, torchglm.Result]
) -> None:
    rows, found = GLMBatch(*(None if v is None else v[:2000] for v in randhie[0])), []
    for more in ({}, {"enable_progress_bar": False}):
        for data in (rows, TensorBatches(rows, 500, shuffle=True)):
            head = GLMHead(rows.x.shape[1], "poisson", dtype=torch.float64)
            done = fit_sgd(
                head,
                data,
                batch_size=500,
                trainer={**given, **more},
                decay=decay,
                optimizer=lambda p: torch.optim.SGD(p, 0.1, momentum=0.5),
            )
            found.append((joined(head), done.steps, done.epochs))
    for plain, trained in zip(found[:2], found[2:], strict=True):
        assert torch.equal(plain[0], trained[0]) and plain[1:] == trained[1:]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_training_that_was_killed_ends_as_if_it_had_not(
    streamed: bool, tmp_path: Path, randhie: tuple[GLMBatch, torchglm.Result]
) -> None:
    rows = GLMBatch(*(None if v is None else v[:4000] for v in randhie[0]))

    class Killed(Exception):
        """As far as the solver knows."""

    def fit(epochs: int | None, kept: Path | None) -> Tensor:
        head = GLMHead(rows.x.shape[1], "poisson", dtype=torch.float64)
        data = TensorBatches(rows, 500, shuffle=True) if streamed else rows

        class Kill(Callback):
            """Ends the run."""

            def on_train_epoch_start(self, trainer: Trainer, pl_module: object) -> None:
                if trainer.current_epoch == epochs:
                    raise Killed

        fit_sgd(head, data, batch_size=500, trainer={"max_epochs": 5, "callbacks": [Kill()]}, kept=kept)
        return joined(head)

    with pytest.raises(Killed):
        fit(3, tmp_path / "last.ckpt")
    assert torch.equal(fit(None, tmp_path / "last.ckpt"), fit(None, None))


def test_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger("lightning.pytorch").level
    x, y = torch.randn(50, 2), torch.ones(50)
    fit_sgd(GLMHead(2, "poisson"), GLMBatch(x, y), trainer={"max_epochs": 2}, batch_size=10)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    assert not [w for w in recwarn if "lightning" in w.filename]
    assert logging.getLogger("lightning.pytorch").level == level
    bar = {"max_epochs": 1, "enable_progress_bar": True}
    shown = fit_sgd(GLMHead(2, "poisson"), GLMBatch(x, y), trainer=bar)
    assert "Epoch 0" in "".join(capfd.readouterr()) and shown.epochs == 1


def test_a_trainer_of_ones_own() -> None:
    own = Trainer(
        max_steps=7,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    x, y = torch.randn(50, 2), torch.ones(50)
    assert fit_sgd(GLMHead(2, "poisson"), GLMBatch(x, y), trainer=own, batch_size=10).steps == 7


def test_what_cannot_be_trained() -> None:
    x, y = torch.randn(50, 2), torch.ones(50)
    head = GLMHead(2, "poisson")
    with pytest.raises(ValueError, match="one batch"):
        fit_sgd(head, TensorBatches(GLMBatch(x, y), 10), optimizer=torch.optim.LBFGS)
    with pytest.raises(ValueError, match="one response"):
        fit_sgd(GLMHead(2, "poisson", out_features=2), GLMBatch(x, y))
    with pytest.raises(ValueError, match="positive weight"):
        fit_sgd(head, GLMBatch(x, y, weights=0 * y))
    with pytest.raises(ValueError, match=r"x \(n, 3\)"):
        fit_sgd(GLMHead(3, "poisson"), GLMBatch(x, y))
    with pytest.raises(ValueError, match=r"y \(n,\)"):
        fit_sgd(head, GLMBatch(x, torch.ones(50, 2)))
    for polish in (-1, 1.5, "newton"):
        with pytest.raises(ValueError, match="polish must be"):
            fit_sgd(head, GLMBatch(x, y), polish=polish)
    before, y = head.weight.clone(), torch.poisson(torch.exp(2 * x[:, 0]))
    with pytest.raises(ValueError, match="not finite"):
        fit_sgd(head, GLMBatch(x, y), optimizer=lambda p: torch.optim.SGD(p, 1e4))
    assert torch.equal(head.weight, before)


@pytest.mark.cuda
def test_cuda() -> None:
    x = torch.randn(2000, 3, dtype=torch.float64)
    y = torch.poisson(torch.exp(0.3 + x @ x.new_tensor([0.2, -0.1, 0.4])))
    result = torchglm.fit(x, y, family="poisson")
    for device in ("cpu", "cuda"):  # the rows may stay where they are
        head = GLMHead(3, "poisson", dtype=torch.float64, device="cuda")
        fit_sgd(head, GLMBatch(x.to(device), y.to(device)), optimizer=lbfgs, polish=2)
        torch.testing.assert_close(joined(head).cpu(), result.coef, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("family", ["poisson", "gamma", "ordinal"])
def test_a_quadratic_penalty_is_that_of_a_fit(family: str, bias: bool) -> None:
    """Its strength is on the scale of the whole likelihood, however many rows there are, and its columns are those of
    `coef`, the intercept among them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(800, 4, generator=generator, dtype=torch.float64) + 1
    eta = x @ torch.tensor([0.3, -0.2, 0.1, 0.2], dtype=torch.float64)
    weights = torch.rand(800, generator=generator, dtype=torch.float64) + 0.5
    y = torch.poisson(eta.exp(), generator=generator).clamp(min=0.5 if family == "gamma" else 0)
    if family == "ordinal":
        if not bias:
            return
        y = y.clamp(max=2)
    first = int(bias and family != "ordinal")
    matrix = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]], dtype=torch.float64)
    penalty = torchglm.Quadratic([([first, first + 1, first + 2], matrix)], 150.0)
    law, link = (torchglm.Ordinal(classes=3), None) if family == "ordinal" else (family, "log")
    known = {"family": law, "link": link, "penalty": penalty, "intercept": bias, "weights": weights, "tol": 1e-12}
    want = torchglm.fit(x, y.numpy() if family == "ordinal" else y, **known).flat.coef[0]  # type: ignore[arg-type]
    for polish, near in ((0, 0.1), (3, 1e-5)):
        head = GLMHead(4, law, link, bias=bias, dtype=torch.float64)
        trained = fit_sgd(
            head, GLMBatch(x, y, weights=weights), penalty=penalty, batch_size=100, polish=polish,
            trainer={"max_epochs": 8},
        )  # fmt: skip
        assert trained.distance < (1e-4 if polish else 0.5)
        torch.testing.assert_close(head.coef.flatten(), want, rtol=0, atol=near)
    with pytest.raises(ValueError, match="Give numbers"):
        fit_sgd(GLMHead(4, law, link, bias=bias), GLMBatch(x, y), penalty=torchglm.Ridge("reml"))
