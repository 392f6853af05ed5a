"""Heads and networks as files: the outputs of programs and of ONNX are those of the model."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from test_head_matrix import PLAIN, SEVERAL, made
from torch import nn

import torchglm as tg
from torchglm.special.tracing import repeated
from torchglm.store import elementary
from torchglm.store.constants import exact_, rounded
from torchglm.store.exported import to_onnx

FAR = torch.tensor([-40, -8, -1, -0.5, -1e-3, -1e-12, 0, 1e-12, 1e-3, 0.2, 0.5, 1, 3, 8, 200.0], dtype=torch.float64)
SHARES = torch.tensor([0, 1e-200, 1e-10, 0.02, 0.3, 0.5, 0.7, 0.98, 1 - 1e-10, 1], dtype=torch.float64)
NAMES = [name for name in [*PLAIN, *SEVERAL]]
QUICK = ("Poisson()", "ordinal cumulative logit")


def known(name: str) -> tg.GLMHead:
    head = made(name)[0]
    if head.dispersion_kind == "estimated":
        head.set_dispersion_(0.5)
    return head


def level_of(name: str) -> float | None:
    return None if "beta_binomial" in name else 0.9


@pytest.mark.parametrize(
    ("ours", "theirs", "at"),
    [
        (elementary.log1p, torch.log1p, FAR[2:]),
        (elementary.expm1, torch.expm1, FAR),
        (elementary.lgamma, torch.lgamma, FAR[6:]),
        (elementary.erf, torch.erf, FAR),
        (elementary.erfc, torch.erfc, FAR),
        (elementary.erfcx, torch.special.erfcx, FAR[1:]),
        (elementary.log_ndtr, torch.special.log_ndtr, FAR),
        (elementary.ndtri, torch.special.ndtri, SHARES),
        (elementary.softplus, nn.functional.softplus, FAR),
        (elementary.log_sigmoid, nn.functional.logsigmoid, FAR),
        (elementary.atan, torch.atan, FAR),
        (elementary.asin, torch.asin, torch.linspace(-1, 1, 41, dtype=torch.float64)),
    ],
)
def test_functions_are_written_out_to_their_digits(ours, theirs, at) -> None:
    torch.testing.assert_close(ours(at), theirs(at), rtol=1e-12, atol=1e-13)


def saved(module: nn.Module) -> torch.export.ExportedProgram:
    rows = {0: torch.export.Dim("rows", min=1)}
    with torch.no_grad():
        program = torch.export.export(module, (torch.zeros(3, 2),), dynamic_shapes=(rows,))
    kept = io.BytesIO()
    torch.export.save(program, kept)
    kept.seek(0)
    return torch.export.load(kept)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in NAMES])
def test_programs_are_saved_and_loaded(name: str) -> None:
    module = tg.nn.Predictive(known(name))
    for rows in (1, 11):
        x = torch.randn(rows, 2)
        torch.testing.assert_close(saved(module).module()(x), module(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if level_of(name) is not None])
def test_programs_of_intervals_are_saved_and_loaded(name: str) -> None:
    class Interval(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = known(name)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.head.law(x).interval(0.9)

    module, x = Interval(), torch.randn(11, 2)
    torch.testing.assert_close(saved(module).module()(x), module(x))


def in_onnxruntime(file: Path, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(file))
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return {out.name: torch.from_numpy(value) for out, value in zip(session.get_outputs(), found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("level", [None, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_onnx_says_the_same(name: str, level: float | None, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    if level is not None and level_of(name) is None:
        pytest.skip("its interval needs trials")
    head, x = known(name), torch.randn(11, 2)
    tg.export(head, tmp_path / "head.onnx", level=level)
    want = tg.nn.Predictive(head, level)(x)
    found = in_onnxruntime(tmp_path / "head.onnx", x=x)
    assert found.keys() == want.keys()
    for key, value in want.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)


def test_no_choice_between_truth_values_is_left() -> None:
    """Runtimes choose between numbers alone; also in the loops of a search, and where a shape is broadcast."""

    class Chosen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            def halved(x: torch.Tensor, turned: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return x / 2, torch.where(x[:, :1] > 2, (x > 5) | turned, turned & (x < 9))

            x, turned = repeated(halved, (x, x > 3), lambda x, turned: x > 0.5, 9)
            return torch.where(torch.where(x > 0.1, turned, ~turned), x, 2 * x)

    x = 10 * torch.rand(5, 3)
    with torch.no_grad():
        program = torch.export.export(Chosen(), (x,)).run_decompositions(elementary.table())
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    chosen = [node for graph in graphs for node in graph.nodes if node.target is torch.ops.aten.where.self]
    assert len(graphs) > 1 and chosen and all(node.meta["val"].dtype.is_floating_point for node in chosen)
    torch.testing.assert_close(program.module()(x), Chosen()(x))


def test_of_no_truth_values_none_is_true(tmp_path: Path) -> None:
    """Runtimes take the largest of none as true, so `any` and `all` are by their number; laws ask of shapes (m, 0)."""

    class Asked(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            none = x[:, :0]
            return {
                "any": torch.where((none <= 0).any(-1), torch.nan, x[:, 0]),
                "all": torch.where((none > 0).all(-1), x[:, 0], torch.nan),
                "some": torch.where((x > 0).any(-1, keepdim=True) & ~(x > 9).any(), x, 2 * x),
                "every": torch.where((x > 0).all(-1) & (x < 9).all(), x[:, 0], -x[:, 0]),
            }

    module, x = Asked(), torch.randn(5, 2)
    rows = {0: torch.export.Dim("rows", min=1)}
    program = torch.export.export(module, (x,), dynamic_shapes=(rows,)).run_decompositions(elementary.everywhere())
    left = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in left if name.startswith(("aten.any", "aten.all"))]
    torch.testing.assert_close(program.module()(x), module(x))
    pytest.importorskip("onnxscript")
    torch.onnx.export(program, dynamo=True).save(tmp_path / "asked.onnx")
    for value, right in zip(in_onnxruntime(tmp_path / "asked.onnx", x=x).values(), module(x).values(), strict=True):
        torch.testing.assert_close(value, right)


class Numbers(nn.Module):
    """Numbers of every size beside float64 in every way that formulas have them, and beside float32."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        d, tiny, most = x.double(), torch.finfo(torch.float64).tiny, torch.finfo(torch.float64).max

        def halved(at: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (at * 0.3,)

        return (
            *(op(d, 0.1) for op in (torch.add, torch.sub, torch.mul, torch.div, torch.pow)),
            *(0.1 - d, 0.1 / d, 0.1**d, d.add(d, alpha=0.1), torch.addcmul(d, d, d, value=0.1)),
            *(op(d, 0.1).double() for op in (torch.lt, torch.le, torch.gt, torch.ge, torch.eq, torch.ne)),
            *(torch.where(d > 0, 0.1, d), d.masked_fill(d > 0, 0.1), torch.full_like(d, 0.1), d.new_full((3,), 0.1)),
            *(d.clamp(0.1, 0.7), d.clamp(max=-1e-300), (d - 5).clamp(min=tiny), (1e300 * d).clamp(max=0.9 * most)),
            *(torch.nan_to_num(d / 0), torch.nan_to_num(d / 0, posinf=0.1), d * 1e-200 * 1e190, x * 0.1),
            repeated(halved, (d,), lambda at: at > 0.2, 9)[0],
        )


def numbers() -> tuple[torch.export.ExportedProgram, torch.Tensor]:
    x = torch.tensor([0.1, 0.5, 2.0])
    with torch.no_grad():
        return torch.export.export(Numbers(), (x,)), x


def test_numbers_keep_all_of_their_digits() -> None:
    """The way to ONNX rounds a number beside float64 to float32, of which 1e-300 is 0; none is left there."""
    program, x = numbers()
    plain = program.run_decompositions(elementary.everywhere())
    assert len(rounded(plain)) > 20
    exact_(plain)
    assert rounded(plain) == []
    torch.testing.assert_close(plain.module()(x), Numbers()(x), rtol=0, atol=0)


@pytest.mark.slow
def test_numbers_keep_all_of_their_digits_in_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    program, x = numbers()
    names = [f"out_{k}" for k in range(len(Numbers()(x)))]
    (tmp_path / "numbers.onnx").write_bytes(to_onnx(program, ["x"], names))
    found = in_onnxruntime(tmp_path / "numbers.onnx", x=x)
    torch.testing.assert_close([found[name] for name in names], list(Numbers()(x)), rtol=4e-16, atol=0)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    head = tg.GLMHead(2, "gamma")
    with pytest.raises(ValueError, match="not known yet"):
        tg.nn.Predictive(head, 0.9)
    with pytest.raises(ValueError, match="must end in"):
        tg.export(head, tmp_path / "head.pb")
    with pytest.raises(ValueError, match="Pass x="):
        tg.export(nn.Sequential(nn.Linear(2, 2), head), tmp_path / "net.pt2")
    with pytest.raises(ValueError, match="between 0 and 1"):
        tg.nn.Predictive(tg.GLMHead(2, "poisson"), 1.0)
    with pytest.raises(ValueError, match="needs its trials"):
        tg.nn.Predictive(tg.GLMHead(2, tg.BetaBinomial()), 0.9)


def test_a_network_is_written_with_its_example(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), tg.GLMHead(3, "negative_binomial"))
    tg.export(network, tmp_path / "net.pt2", x=torch.zeros(3, 4))
    x = torch.randn(9, 4)
    found = torch.export.load(tmp_path / "net.pt2").module()(x)["mean"]
    torch.testing.assert_close(found, network(x)[:, 0])
