"""Policies: missing values, unseen levels, and rare levels pooled into one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

import torchglm
from torchglm.cli import main
from torchglm.design import DesignSpec, Tally, build, learn

LEVELS = {"b": 30, "a": 20, "rare": 3, "new": 1, "other": 12, "c": 10}  # rows of each


def frame(seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    g = draw.permutation(np.repeat(list(LEVELS), list(LEVELS.values())))
    x = draw.normal(size=len(g))
    return pd.DataFrame({"y": draw.poisson(np.exp(0.5 + 0.3 * x)), "x": x, "g": g, "k": draw.integers(0, 3, len(g))})


def through_json(spec: DesignSpec) -> DesignSpec:
    return DesignSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False)))


def test_rare_levels_are_one_level_the_last() -> None:
    data = frame()
    joined = data.assign(g=data.g.where(~data.g.isin(["rare", "new", "other"]), "z"))
    design, by_hand = build("y ~ x * g", data, rare=10), build("y ~ x * g", joined)
    assert design.names == [name.replace("[T.z]", "[T.other]") for name in by_hand.names]
    assert torch.equal(design.x, by_hand.x)
    [pool] = [factor.pool for factor in design.spec.factors.values() if hasattr(factor, "pool")]
    assert pool.levels == ["new", "other", "rare"] and pool.rows == 16


def test_pieces_pool_what_the_whole_pools() -> None:
    data = frame()
    pieces = [pa.Table.from_pandas(data.iloc[i : i + 11]) for i in range(0, len(data), 11)]
    spec = learn("y ~ x + g + C(k)", pieces, rare=10, unseen="other")
    whole = build("y ~ x + g + C(k)", data, rare=10, unseen="other")
    assert spec.to_dict() == whole.spec.to_dict()
    assert torch.equal(torch.cat([through_json(spec).transform(piece) for piece in pieces]), whole.x)


@pytest.mark.parametrize("formula", ["~ g", "~ 0 + g", "~ C(g, contr.sum)", "~ C(g, contr.treatment('b'))"])
def test_unseen_levels_count_as_other_as_pooled_ones_do(formula: str) -> None:
    data = frame()
    spec = through_json(build(formula, data, rare=10, unseen="other").spec)
    new = pd.DataFrame({"g": ["never", "a", "rare", "other", "never 2"]})
    design = spec.design(new)
    assert torch.equal(design.x[0], design.x[2]) and torch.equal(design.x[0], design.x[3])
    assert torch.equal(design.x[0], design.x[4]) and not torch.equal(design.x[0], design.x[1])
    assert sum(design.unseen.values()) == 2


def test_numbers_pool_too() -> None:
    data = {"k": [1, 1, 1, 2, 2, 2, 3, 4]}
    spec = through_json(build("~ C(k)", data, rare=2, unseen="other").spec)
    assert spec.names == ["(Intercept)", "C(k)[T.2]", "C(k)[T.other]"]
    assert spec.transform({"k": [1.0, 2.0, 4.0, 77.0]}).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1]]
    assert spec.transform({"k": ["other"]}).tolist() == [[1, 0, 1]]


def test_a_pooled_level_is_known_whatever_the_policy() -> None:
    data = frame()
    spec = build("~ g", data, rare=10).spec
    assert spec.transform({"g": ["rare"]}).tolist() == spec.transform({"g": ["new"]}).tolist()
    with pytest.raises(ValueError, match="unknown levels: 'never'.*'reference', or as 'other'"):
        spec.transform({"g": ["never"]})
    assert spec.transform({"g": ["never"]}, unseen="reference").tolist() == spec.transform({"g": ["a"]}).tolist()
    assert spec.transform({"g": ["never"]}, unseen="other").tolist() == spec.transform({"g": ["rare"]}).tolist()


def test_without_a_pool_other_is_an_error_that_says_why() -> None:
    data = frame()
    with pytest.raises(ValueError, match="unseen='other' needs .* Give rare="):
        build("~ g", data, unseen="other")
    spec = build("~ g + C(k)", data, rare=2, unseen="other").spec
    assert spec.transform({"g": ["never"], "k": [1]}).shape == (1, len(spec.names))
    with pytest.raises(ValueError, match="'C.k.' has 1 rows .* pooled no rare levels of it"):
        spec.transform({"g": ["a"], "k": [9]})
    for wrong in (-1, 2.5, True):
        with pytest.raises(ValueError, match="rare must be a whole number"):
            build("~ g", data, rare=wrong)  # type: ignore[arg-type]


def test_levels_that_a_formula_lists_and_a_response_are_never_pooled() -> None:
    data = {"g": ["a", "b", "b", "b"], "y": ["no", "yes", "yes", "yes"]}
    design = build("y ~ C(g, levels=['b', 'a'])", data, rare=2)
    assert design.names[1:] == ["C(g, levels=['b', 'a'])[T.a]"]
    assert design.y is not None and design.y.tolist() == [0, 1, 1, 1]


def test_only_complete_rows_count_towards_a_level() -> None:
    data = {"g": ["a", "a", "b", "b", "b"], "x": [1.0, 2.0, 3.0, 4.0, None]}
    assert build("~ g + x", data, rare=3, missing="drop").names == ["(Intercept)", "x"]
    assert build("~ g", data, rare=3).names == ["(Intercept)", "g[T.other]"]


def test_a_fit_counts_what_the_policies_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frame()
    data.loc[data.index[data.g == "b"][:2], "x"] = np.nan
    policies = {"missing": "drop", "unseen": "other", "rare": 10}
    table = torchglm.fit("y ~ x + g", data, family="poisson", **policies)  # type: ignore[arg-type]
    for i, rows in enumerate([data.iloc[:30], data.iloc[30:]]):
        rows.to_parquet(tmp_path / f"{i}.parquet", row_group_size=9)
    monkeypatch.setattr("torchglm.inputs.files.HOLD", 0)
    files = torchglm.fit("y ~ x + g", tmp_path, family="poisson", **policies)  # type: ignore[arg-type]
    assert table.context["tally"] == files.context["tally"] == {"rows": 2, "missing": {"x": 2}, "unseen": {}}
    torch.testing.assert_close(files.coef, table.coef, rtol=1e-10, atol=1e-12)
    text = str(files.summary())
    assert "Left out: 2 rows with missing values (x 2)." in text and "'other': g 3 levels of 16 rows." in text
    new = pd.DataFrame({"x": [0.1, 0.1, 0.1], "g": ["never", "rare", "a"]})
    other, same, reference = files.predict(new).tolist()
    assert other == same != reference
    assert files.predict(new, unseen="reference").tolist() == [reference, same, reference]
    assert files.predict_interval(new, unseen="reference")[0].tolist() == files.predict_interval(new)[2].tolist()
    with pytest.raises(ValueError, match="unknown levels: 'never'"):
        files.predict(new, unseen="error")


def test_counts_of_parts_add_up_and_a_part_may_be_the_whole() -> None:
    design = build("y ~ x", frame().assign(x=lambda d: d.x.where(d.g != "c")), missing="drop")
    one, two = Tally.of(design), Tally.of(design)
    one.join([one])
    assert one.to_dict() == {"rows": 10, "missing": {"x": 10}, "unseen": {}}
    one.join([one, two])
    assert one.to_dict() == {"rows": 20, "missing": {"x": 20}, "unseen": {}}


def test_a_listed_level_set_counts_the_rows_beyond_it() -> None:
    data = frame()
    fitted = torchglm.fit("y ~ x + C(g, levels=['a', 'b', 'c'])", data, family="poisson", unseen="reference")
    assert fitted.context["tally"]["unseen"] == {"C(g, levels=['a', 'b', 'c'])": 16}
    assert "Taken in: 16 rows with unseen levels as the reference level" in str(fitted.summary())


def test_yaml_reaches_the_policies_and_the_run_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = frame()
    data.loc[data.index[data.g == "b"][:1], "x"] = np.nan
    parquet.write_table(pa.Table.from_pandas(data), "rows.parquet")
    Path("fit.yaml").write_text(
        "data: {path: rows.parquet, formula: y ~ x + g, missing: drop, unseen: other, "
        "rare: 10}\nfamily: poisson\noutput_dir: run\n"
    )
    assert main(["fit", "fit.yaml"]) == 0
    assert "1 row with missing values (x 1)" in capsys.readouterr().out
    assert "Left out</dt><dd>1 row</dd>" in Path("run/report.html").read_text()
    assert json.loads(Path("run/summary.json").read_text())["tally"]["rows"] == 1
    assert "g 3 levels of 16 rows" in Path("run/report.html").read_text()
    loaded = torchglm.load("run")
    assert loaded.spec.unseen == "other" and loaded.context["tally"]["missing"] == {"x": 1}
    assert loaded.predict(pd.DataFrame({"x": [0.0], "g": ["never"]})).isfinite().all()
    assert main(["fit", "fit.yaml", "--data.rare", "0"]) == 2
    assert "Give data.rare, such as data.rare: 10" in capsys.readouterr().err


@pytest.mark.parametrize("by", [None, "g"])
@pytest.mark.parametrize(
    ("column", "value", "options", "said"),
    [
        ("y", -1.0, {}, "y >= 0; row 20 has y = -1"),
        ("w", -2.0, {"weights": "w"}, "weights must be >= 0; row 20"),
        ("w", 0.0, {"exposure": "w"}, "exposure must be finite and > 0; row 20"),
        ("y", 9.0, {"family": "binomial", "trials": "t"}, "row 20 has more successes than trials"),
    ],
)
def test_rows_are_counted_as_given_where_some_are_left_out(
    by: str | None, column: str, value: float, options: dict[str, str], said: str
) -> None:
    data = pd.DataFrame({"y": np.arange(40.0) % 5, "a": np.arange(40.0), "w": 1.0, "t": 6.0, "g": ["p", "q"] * 20})
    data.loc[3, "a"] = np.nan
    data.loc[20, column] = value
    with pytest.raises(ValueError, match=said):
        torchglm.fit("y ~ a", data, missing="drop", by=by, **{"family": "poisson"} | options)  # type: ignore[arg-type]
