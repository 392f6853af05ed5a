"""Doors for those who come from R, statsmodels or scikit-learn: usual names are answered, usual calls work."""

from __future__ import annotations

import copy
import importlib
import inspect
import pydoc
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import torchglm
from torchglm import families, links
from torchglm.design.expressions import REFUSED
from torchglm.inputs.roles import ROLES
from torchglm.model.usual import OF_MODULE, OF_PATH, OF_SKLEARN, USUAL
from torchglm.report.summary import ELSEWHERE
from torchglm.writing import answering, usual_keywords


@pytest.fixture(scope="module")
def data() -> dict[str, object]:
    draw = np.random.default_rng(4)
    a = draw.normal(size=80)
    return {"a": a, "g": ["u", "v"] * 40, "y": draw.poisson(np.exp(0.3 + 0.4 * a))}


@pytest.fixture(scope="module")
def result(data: dict[str, object]) -> torchglm.Result:
    return torchglm.fit("y ~ a + g", data, family="poisson")


@pytest.mark.parametrize("name", USUAL)
def test_a_usual_name_is_answered_by_one_that_is_there(result: torchglm.Result, name: str) -> None:
    with pytest.raises(AttributeError, match="Here it is") as said:
        getattr(result, name)
    named = str(said.value).partition("Here it is ")[2]
    assert re.findall(r"\w+", named)[0] in dir(result)


@pytest.mark.parametrize("name", OF_MODULE)
def test_a_usual_function_or_class_is_answered_by_one_that_is_there(name: str) -> None:
    with pytest.raises(AttributeError, match="Here it is") as said:
        getattr(torchglm, name)
    first = re.findall(r"\w+(?:\.\w+)*", str(said.value).partition("Here it is ")[2])[0]
    assert first.partition(".")[0] in torchglm.__all__ or first.startswith("training.")


@pytest.mark.parametrize("name", OF_SKLEARN)
def test_a_usual_estimator_is_answered_by_one_that_is_there(name: str) -> None:
    estimators = importlib.import_module("torchglm.sklearn")
    with pytest.raises(AttributeError, match="Here it is") as said:
        getattr(estimators, name)
    assert re.findall(r"\w+", str(said.value).partition("Here it is ")[2])[0] in estimators.__all__


def test_usual_names_of_paths_and_summaries_are_answered(result: torchglm.Result) -> None:
    path = torchglm.path(np.arange(30.0).reshape(15, 2) ** 0.5, np.arange(15) % 4, family="poisson", n=3)
    for owner, table in ((path, OF_PATH), (result.summary(), ELSEWHERE)):
        for name in table:
            with pytest.raises(AttributeError, match="Here it is") as said:
                getattr(owner, name)
            assert re.findall(r"\w+", str(said.value).partition("Here it is ")[2])[0] in dir(owner)
        assert copy.deepcopy(owner) is not owner
    with pytest.raises(ValueError, match=r"unknown word 'lambda.1se' \(here it is 'one_se'\)"):
        path.select("lambda.1se")


@pytest.mark.parametrize(("owner", "name", "near"), [(torchglm, "Poison", "Poisson"), (None, "conf_ints", "conf_int")])
def test_the_nearest_attribute_is_named(result: torchglm.Result, owner: object, name: str, near: str) -> None:
    with pytest.raises(AttributeError, match=rf"{name}' \(did you mean '{near}'\?\)"):
        getattr(owner or result, name)


KEYWORDS = """type test alpha level link scale cov_type exposure offset weights freq_weights sample_weight newdata
se_fit interval at vcov conf_level maxiter tol data formula family C lambda_ random_state method groups""".split()
ROOMS = ("", ".families", ".links", ".nn", ".optim", ".training", ".sklearn", ".report")
MADE_HERE = {"Result", "Path", "PersonTime", "Status", "FitWarning", "Penalty", "Trained", "GLMBatch"}  # not by a user
PATH = torchglm.path(np.arange(30.0).reshape(15, 2) ** 0.5, np.arange(15) % 4, family="poisson", n=3)
HEAD = torchglm.GLMHead(2, "poisson")
OWNERS = {
    "result": torchglm.fit(np.arange(12.0)[:, None], np.arange(12) % 5, family="poisson"),
    "path": PATH,
    "head": HEAD,
    "ordinal head": torchglm.GLMHead(2, torchglm.Ordinal(classes=3)),
    "loss": torchglm.GLMLoss("poisson"),
    "renewable": HEAD.partial_fit(torch.arange(12.0).reshape(6, 2).square(), torch.arange(6) % 3),
}


def public() -> dict[str, Callable[..., object]]:
    """Every function and class, and every method of what these make, that a user calls."""
    found: dict[str, Callable[..., object]] = {}
    for room in ROOMS:
        module = importlib.import_module(f"torchglm{room}")
        for name in module.__all__:
            member = getattr(module, name)
            if not inspect.ismodule(member) and name not in MADE_HERE | {"get", "names", "as_batch"}:
                found[f"torchglm{room}.{name}"] = member
    for owner, made in OWNERS.items():
        for name in vars(torchglm.Result) if owner == "result" else dir(type(made)):
            method = inspect.getattr_static(type(made), name)
            if inspect.isfunction(method) and not name.startswith("_") and method.__module__.startswith("torchglm"):
                found[f"{owner}.{name}"] = getattr(made, name)
    return {name: member for name, member in found.items() if "options" not in signature(member)}


def signature(member: Callable[..., object]) -> list[str]:
    return list(inspect.signature(member.__init__ if isinstance(member, type) else member).parameters)


DOORS = public()


def takes(name: str) -> set[str]:
    """The keywords of a door, roles among them."""
    taken = set(signature(DOORS[name]))
    return taken | (set(answering.BESIDE) if "roles" in taken else set())


@pytest.mark.parametrize("door", DOORS)
def test_a_keyword_that_a_door_does_not_take_is_answered(door: str) -> None:
    for name in KEYWORDS + list(usual_keywords.DOORS.get(door.rpartition(".")[2], {})):
        if not name or name in takes(door):
            continue
        with pytest.raises(TypeError, match=rf"takes no {name}=") as said:
            DOORS[door](**{name: 1})
        text = str(said.value)
        ours = re.match(r"[^(]*\(here it is (\w+)=(?! of)", text)
        assert ours is None or ours[1] in takes(door) or f"torchglm.fit(..., {ours[1]}" in text, text
        assert re.search(r"\. (It takes|What stands beside)", text)


SHARED = {"solve", "irls", "path", "LazyGLMHead"}  # their tables are those of other doors


@pytest.mark.parametrize("table", usual_keywords.DOORS)
def test_what_a_table_names_is_taken_by_its_door(table: str) -> None:
    called = "forward" if table == "a call" else table
    doors = [name for name in DOORS if name.rpartition(".")[2] == called] or ["torchglm.Poisson"]
    assert doors != ["torchglm.Poisson"] or table == "Family"
    for name, said in usual_keywords.DOORS[table].items():
        ours = re.match(r"(\w+)=(?! of )", said)
        assert ours is None or table in SHARED or any(ours[1] in takes(door) for door in doors), name


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda fit: fit.residuals(type="pearson"), r"residuals takes no type= \(here it is kind=\)"),
        (lambda fit: fit.conf_int(alpha=0.1), r"alpha= \(here it is level=, which is 1 - alpha\)"),
        (lambda fit: fit.anova(test="LRT"), r"anova takes no test= \(here it is nothing: it is F where"),
        (lambda fit: fit.summary(vcov="HC3"), r"vcov= \(here it is one of a result: take it from fit.robust"),
        (lambda fit: fit.conf_int(levl=0.9), r"levl= \(did you mean 'level'\?\). It takes level, method\."),
        (lambda fit: fit.simulate(nsim=3), r"nsim= \(here it is times=\)"),
        (lambda fit: fit.leverage(type="rows"), r"leverage takes no type=. It takes no arguments\."),
        (lambda _: torchglm.Poisson(link="log"), r"Poisson takes no link= \(here it is one of torchglm.fit, GLMHead"),
        (lambda _: torchglm.Gamma("log"), r"Gamma takes 0 arguments by place, got 1.*A link is one of torchglm.fit"),
        (lambda _: torchglm.NegativeBinomial(theta=2.0), r"theta= \(here it is alpha=1 / theta\)"),
        (lambda _: torchglm.Tweedie(var_power=1.5), r"var_power= \(here it is power=\)"),
        (lambda _: torchglm.Ridge(alpha=1.0), r"Ridge takes no alpha= \(here it is l2="),
        (lambda _: torchglm.ElasticNet(alpha=1.0, l1_ratio=0.5), r"alpha= \(here it is l1= and l2=.*, l1_ratio="),
        (lambda _: torchglm.families.get("poisson", scale=2.0), r"Poisson takes no scale="),
        (lambda _: torchglm.GLMHead(3, "poisson", exposure=1), r"GLMHead takes no exposure= \(here it is one of the"),
        (
            lambda _: HEAD(torch.ones(1, 2), exposure=1),
            r"a call takes no exposure= \(here it is offset=, exposure.log",
        ),
        (
            lambda _: torchglm.fit([[1.0]], [1.0], family="poisson", max_iters=3),
            r"max_iters= \(did you mean 'max_iter'",
        ),
        (lambda _: torchglm.fit([[1.0]], [1.0], family="poisson", weigts=3), r"weigts= \(did you mean 'weights'"),
        (lambda _: torchglm.path([[1.0]], [1.0], family="poisson", nfolds=3), r"nfolds= \(here it is folds=\)"),
    ],
)
def test_what_others_call_an_argument(result: torchglm.Result, call: Callable[..., object], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        call(result)


@pytest.mark.parametrize(
    ("room", "name", "said"),
    [
        ("sklearn", "LogisticRegression", r"Here it is GLMClassifier\(penalty"),
        ("nn", "PoissonNLLLoss", r'Here it is GLMLoss\("poisson"\)'),
        ("nn", "GLMhead", "did you mean 'GLMHead'"),
        ("families", "Multinomial", "Here it is torchglm.Multinomial"),
        ("families", "Poison", "did you mean 'Poisson'"),
        ("links", "InversePower", "Here it is 'inverse'"),
        ("links", "CLoglog", "did you mean 'CLogLog'"),
    ],
)
def test_a_name_that_a_room_has_not_is_answered(room: str, name: str, said: str) -> None:
    with pytest.raises(AttributeError, match=said):
        getattr(importlib.import_module(f"torchglm.{room}"), name)


def test_arguments_too_many_by_place_are_counted(result: torchglm.Result, data: dict[str, object]) -> None:
    for call, said in (
        (lambda: torchglm.fit("y ~ a", data, "poisson"), r"fit takes 2 arguments by place, got 3"),  # type: ignore
        (lambda: result.conf_int(0.9, "wald", 1), r"conf_int takes 2 arguments by place, got 3. It takes level, meth"),
        (lambda: torchglm.Ridge(1.0, None, 2), r"Ridge takes 2 arguments by place, got 3. It takes l2, centre"),
    ):
        with pytest.raises(TypeError, match=said):
            call()


def test_two_fits_are_compared_and_columns_of_successes_and_failures_are_totals(
    result: torchglm.Result, data: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match=r"Of two fits it is torchglm.compare"):
        result.anova(result)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"y\[:, 0\] with trials=y.sum\(1\)"):
        torchglm.fit(np.ones((5, 1)), np.ones((5, 2)), family="binomial")
    with pytest.raises(ValueError, match=r"Write a comparison within I\(\), as I\(a > 0\)"):
        torchglm.fit("y ~ (a > 0)", data, family="poisson")


@pytest.mark.parametrize("many", [np.array([0.1, 0.2]), torch.tensor([0.1, 0.2]), (0.1, 0.2), range(1, 3)])
def test_settings_are_any_values(result: torchglm.Result, many: object) -> None:
    assert len(result.predictions({"a": many}).names) == 2
    assert len(result.predictions({"a": np.float64(0.5), "g": "u"}).names) == 1


def test_clusters_and_times_go_by_the_names_of_columns_that_the_fit_holds(data: dict[str, object]) -> None:
    firm, year = np.arange(80) % 7, np.arange(80) // 7
    table = data | {"firm": firm, "year": year}
    fit = torchglm.fit("y ~ a + g | firm + year", table, family="gaussian")
    for kind in ({}, {"type": "HC1"}):
        assert fit.robust("cluster", "firm", **kind).std_err.equal(fit.robust("cluster", firm, **kind).std_err)
    both = fit.robust("cluster", (firm, year)).std_err
    assert all(fit.robust("cluster", name).std_err.equal(both) for name in ("firm + year", "~firm+year"))
    plain = torchglm.fit("y ~ a + firm + year", table, family="gaussian")
    names, values = (plain.covariance("driscoll_kraay", order=one) for one in ("year", year))
    assert names.equal(values)
    tests = [plain.robust("cluster", one, type="CR2").wald("a, year").p_value for one in ("firm", firm)]
    draws = [plain.wild_bootstrap(one, ["a"], draws=99, level=None).value for one in ("firm", firm)]
    assert tests[0] == tests[1] and draws[0].equal(draws[1])
    with pytest.raises(ValueError, match="holds columns y, a, g, firm, year .did you mean 'firm'.*no column 'firms'"):
        fit.robust("cluster", "firms")
    with pytest.raises(ValueError, match="holds no table"):
        torchglm.fit(np.arange(6.0)[:, None], np.arange(6) % 3, family="poisson").robust("cluster", "firm")


def test_the_roles_are_named_once() -> None:
    assert ROLES == answering.BESIDE


def test_a_wrapped_function_is_what_it_was(result: torchglm.Result) -> None:
    assert list(inspect.signature(torchglm.NegativeBinomial).parameters) == ["alpha"]
    assert list(inspect.signature(result.conf_int).parameters) == ["level", "method"]
    assert torchglm.fit.__name__ == "fit" and "maximum likelihood" in (torchglm.fit.__doc__ or "")
    assert copy.deepcopy(torchglm.Tweedie(1.5)).power == 1.5


def test_an_own_family_and_penalty_answer_for_what_they_inherit() -> None:
    class Own(torchglm.NegativeBinomial):
        name = "own"

    with pytest.raises(TypeError, match=r"Own takes no theta= \(here it is alpha=1 / theta\). It takes alpha\."):
        Own(theta=1.0)  # type: ignore[call-arg]
    assert float(Own(0.5).alpha) == 0.5


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("Poisson", r"family must be a name.*Poisson of statsmodels \(here it is 'poisson'\)"),
        ("NegativeBinomial", r"NegativeBinomial of statsmodels \(here it is 'negative_binomial'\)"),
        ("InverseGaussian", r"InverseGaussian of statsmodels \(here it is 'inverse_gaussian'\)"),
    ],
)
def test_a_family_of_statsmodels_is_answered(part: str, said: str) -> None:
    api = pytest.importorskip("statsmodels.api")
    kind = getattr(api.families, part)
    for given in (kind, kind()):
        with pytest.raises(TypeError, match=said):
            families.get(given)


@pytest.mark.parametrize(
    ("part", "ours"), [("Log", "log"), ("InversePower", "inverse"), ("CLogLog", "cloglog"), ("Cauchy", "cauchit")]
)
def test_a_link_of_statsmodels_is_answered(part: str, ours: str) -> None:
    api = pytest.importorskip("statsmodels.api")
    kind = getattr(api.families.links, part)
    for given in (kind, kind()):
        with pytest.raises(TypeError, match=rf"{part} of statsmodels \(here it is '{ours}'\)"):
            links.get(given)


@pytest.mark.parametrize(
    ("name", "ours"), [("sigmoid", "logit"), ("1/mu^2", "inverse_squared"), ("reciprocal", "inverse"), ("exp", "log")]
)
def test_a_link_of_another_library_is_answered(name: str, ours: str) -> None:
    with pytest.raises(ValueError, match=rf"\(here it is '{ours}'"):
        links.get(name)


def test_predict_without_rows_says_where_the_fitted_means_are(result: torchglm.Result) -> None:
    with pytest.raises(TypeError, match="needs rows.*result.fitted"):
        result.predict()


@pytest.mark.parametrize("name", REFUSED)
def test_a_usual_function_in_a_formula_is_answered(data: dict[str, object], name: str) -> None:
    for call in (f"{name}(a)", f"as.{name}(a)"):
        with pytest.raises(ValueError, match=re.escape(REFUSED[name])):
            torchglm.fit(f"y ~ {call}", data, family="poisson")


@pytest.mark.parametrize(
    ("power", "product"),
    [("I(a^2)", "I(a * a)"), ("I((a + 1)^2 / 3)", "I((a + 1) * (a + 1) / 3)"), ("I(-`a`^2)", "I(-a * a)")],
)
def test_a_caret_within_brackets_is_a_power_as_in_r(data: dict[str, object], power: str, product: str) -> None:
    fits = [torchglm.fit(f"y ~ {term}", data, family="poisson") for term in (power, product)]
    torch.testing.assert_close(fits[0].coef, fits[1].coef, rtol=1e-12, atol=0)
    new = {"a": [0.1, 0.7]}
    torch.testing.assert_close(fits[0].predict(new), fits[1].predict(new))


def test_each_coefficient_has_its_name(result: torchglm.Result, data: dict[str, object]) -> None:
    assert list(result.named()) == result.names and result.named()["a"] is not None
    assert result.named("std_err")["a"] == result.std_err[1]
    batch = torchglm.fit(np.arange(20.0)[:, None], np.arange(40).reshape(2, 20) % 3, family="poisson", names=["z"])
    assert batch.named("p_value")["z"].equal(batch.p_value[:, 1])
    with pytest.raises(ValueError, match="unknown value 'bse'"):
        result.named("bse")
    with pytest.raises(KeyError, match="'a' is a coefficient"):
        result["a"]
    with pytest.raises(KeyError, match="'b' is no predictor of poisson"):
        result["b"]
    with pytest.raises(KeyError, match="did you mean 'dispersion'"):
        torchglm.fit("y ~ a", data, family="gaussian", predictors={"dispersion": "~ a"})["Dispersion"]
    with pytest.raises(ValueError, match="two columns go by the name 'a'"):
        torchglm.fit(np.arange(12.0).reshape(6, 2) ** 0.5, np.arange(6) % 3, family="poisson", names=["a", "a"]).named()


def test_a_printed_result_is_its_summary(result: torchglm.Result) -> None:
    assert str(result) == str(result.summary()) and len(repr(result)) < 80


@pytest.mark.parametrize("family", ["poisson", torchglm.ZeroInflated("poisson")], ids=["one", "several"])
def test_rows_of_a_fit_on_columns_go_by_name_in_a_mapping_and_a_row_of_a_frame(family: object) -> None:
    import pandas as pd

    draw = np.random.default_rng(1)
    frame = pd.DataFrame({"a": draw.normal(size=60), "b": draw.normal(size=60)})
    fit = torchglm.fit(frame, draw.poisson(1.0, 60), family=family)  # type: ignore[arg-type]
    want = fit.predict(frame.iloc[:2])
    mixed = {"b": frame.b[:2], "a": torch.tensor(frame.a[:2].to_numpy())}
    for rows in (mixed, frame[["b", "a"]].iloc[:2].to_dict("list")):
        torch.testing.assert_close(fit.predict(rows), want)
        torch.testing.assert_close(fit.predict_interval(rows), fit.predict_interval(frame.iloc[:2]))
    torch.testing.assert_close(fit.predict(frame.iloc[0]), want[:1])
    torch.testing.assert_close(fit.predict({"a": 1.0, "b": [2, 3]}), fit.predict([[1.0, 2.0], [1.0, 3.0]]))
    with pytest.raises(ValueError, match="lacks the column 'b'"):
        fit.predict({"a": 1.0})
    with pytest.raises(ValueError, match=r"other sizes \(a: 2, b: 3\)"):
        fit.predict({"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]})
    with pytest.raises(TypeError, match="have no names"):
        torchglm.fit(frame.to_numpy(), draw.poisson(1.0, 60), family="poisson").predict({"a": 1.0, "b": 2.0})


def test_kinds_of_other_libraries_are_answered(result: torchglm.Result, data: dict[str, object]) -> None:
    for call, said in (
        (lambda: result.predict(data, kind="response"), r"'response' \(here it is 'mean'\)"),
        (lambda: result.predict(data, kind="Link"), r"\(did you mean 'link'\?\)"),
        (lambda: result.robust("hc3"), r"\(did you mean 'HC3'\?\)"),
        (lambda: result.robust("hetero"), r"\(here it is 'HC1'\)"),
        (lambda: result.residuals("Pearson"), r"\(did you mean 'pearson'\?\)"),
        (lambda: result.conf_int(method="profil"), r"\(did you mean 'profile'\?\)"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_a_summary_is_latex(result: torchglm.Result) -> None:
    table = {"a": np.arange(9.0), "y": np.arange(9) % 4}
    text = torchglm.fit("y ~ I(a * 2)", table, family="poisson").summary().to_latex()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1 and r"97.5 \%" in text
    rows = [line for line in result.summary().to_latex().splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(result.names) and len({line.count("&") for line in rows}) == 1


def test_another_name_is_an_attribute_error(result: torchglm.Result) -> None:
    with pytest.raises(AttributeError, match="no attribute 'colour'$"):
        result.colour  # noqa: B018
    assert copy.deepcopy(result).coef.equal(result.coef)


def test_a_failure_within_an_attribute_is_said_as_it_is(
    result: torchglm.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise AttributeError("within")

    monkeypatch.setattr(torchglm.Result, "broken", property(broken), raising=False)
    with pytest.raises(AttributeError, match="^within$"):
        result.broken  # type: ignore[attr-defined]  # noqa: B018


def test_a_formula_and_its_data_go_by_these_names(result: torchglm.Result, data: dict[str, object]) -> None:
    for call in ({"formula": "y ~ a + g", "data": data}, {"x": "y ~ a + g", "data": data}):
        assert torchglm.fit(**call, family="poisson").coef.equal(result.coef)  # type: ignore[arg-type]
    x = np.ones((3, 1))
    for wrong, said in (
        ({}, "needs x"),
        ({"x": x, "data": data}, "table of a formula"),
        ({"x": "y ~ a", "y": data, "data": data}, "Give each once"),
        ({"x": x, "formula": "y ~ a"}, "Give each once"),
    ):
        with pytest.raises(TypeError, match=said):
            torchglm.fit(**wrong, family="poisson")


@pytest.mark.parametrize("kind", families.MEMBERS)
def test_the_class_of_a_family_is_the_family(kind: type[torchglm.Family]) -> None:
    assert type(families.get(kind)) is kind
    assert isinstance(torchglm.GLMHead(2, kind), torchglm.GLMHead)


@pytest.mark.parametrize("kind", links.MEMBERS)
def test_the_class_of_a_link_is_the_link(kind: type[torchglm.Link]) -> None:
    assert type(links.get(kind)) is kind


def test_the_class_of_a_family_of_several_predictors_fits(data: dict[str, object]) -> None:
    by_class = torchglm.fit("g ~ a", data, family=torchglm.Multinomial)
    assert by_class.coef.equal(torchglm.fit("g ~ a", data, family="multinomial").coef)
    assert torchglm.GLMHead(2, torchglm.Ordinal(classes=3)).loss is not None


@pytest.mark.parametrize("name", families.ELSEWHERE)
def test_a_name_of_another_library_is_answered(name: str) -> None:
    if name not in families.names():
        with pytest.raises(ValueError, match=r"\(here it is "):
            families.get(name.upper())


@pytest.mark.parametrize(("name", "near"), [("Poisson", "poisson"), ("poison", "poisson"), ("gama", "gamma")])
def test_the_nearest_family_is_named(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {near!r}"):
        families.get(name)


def test_the_nearest_link_is_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'logit'"):
        links.get("loggit")


@pytest.mark.parametrize("value", [0.3, np.float64(0.3), np.array(0.3), torch.tensor(0.3, dtype=torch.float64)])
def test_a_single_value_stands_in_every_row(result: torchglm.Result, value: object) -> None:
    torch.testing.assert_close(
        result.predict({"a": value, "g": ["u", "v"]}), result.predict({"a": [0.3, 0.3], "g": ["u", "v"]})
    )
    torch.testing.assert_close(result.predict({"a": value, "g": "v"}), result.predict({"a": [0.3], "g": ["v"]}))


class _Balanced(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("br", "col", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_notebooks_show_is_html(data: dict[str, object]) -> None:
    named = {"a<b": data["a"], "g": data["g"], "y": data["y"]}
    result = torchglm.fit("y ~ `a<b` + g", named, family="poisson")
    batch = torchglm.fit(np.ones((30, 1)) * np.arange(30)[:, None], np.arange(60).reshape(2, 30) % 5, family="poisson")
    for shown in (result, result.summary(), result.anova(), result.check(), batch, batch.check(), batch.anova()):
        text = shown._repr_html_()
        _Balanced(text)
        assert "a<b" not in text


def test_a_result_writes_its_report(result: torchglm.Result, tmp_path: Path) -> None:
    page = result.report(tmp_path / "page.html", title="Visits")
    assert "Visits" in page.read_text("utf-8")


@pytest.mark.parametrize("part", [families.Tweedie(), families.Poisson(), links.Log(), links.Power(0.3)])
def test_dir_leaves_out_what_every_module_has(part: nn.Module) -> None:
    assert not {*dir(part)} & {*dir(nn.Module())}
    assert "name" in dir(part)


@pytest.mark.parametrize("wrong", [torch.ones(3), 3, None, ["poisson"]], ids=["tensor", "number", "none", "list"])
def test_what_is_no_family_or_link_is_told_by_its_type(wrong: object) -> None:
    with pytest.raises(TypeError, match=rf"family must be a name, a family or its class, got {type(wrong).__name__}"):
        torchglm.families.get(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=rf"link must be a name, a link or its class, got {type(wrong).__name__}"):
        torchglm.links.get(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [torchglm.Poisson, torchglm.Ordinal, links.Log, torchglm.GLMHead, torchglm.GLMLoss])
def test_help_leaves_out_what_every_module_has(kind: type) -> None:
    text = pydoc.plaintext.document(kind)
    assert text.count("\n") < 500 and "register_forward_hook" not in text
    assert not {"parameters", "to", "register_buffer"} & {*dir(kind)} and "__init__" in dir(kind)
    assert isinstance(kind, type) and issubclass(kind, nn.Module)


def test_the_package_shows_its_own_names_alone() -> None:
    public = [name for name in dir(torchglm) if not name.startswith("_")]
    assert set(public) == {*torchglm.__all__, *torchglm._LAZY}
