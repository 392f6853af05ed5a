"""Packages that take fits as plug-ins: what they read is what the fit says."""

from __future__ import annotations

import numpy as np
import pytest

import torchglm as tg

G = np.random.default_rng(5)
TABLE = {"dose": G.normal(size=150), "firm": G.integers(0, 6, 150)}
TABLE["y"] = G.poisson(np.exp(0.2 + 0.4 * TABLE["dose"])) * (G.random(150) > 0.3)
PLAIN = tg.fit("y ~ dose", TABLE, family="poisson")
ROBUST = PLAIN.robust("HC1")
ABSORBED = tg.fit("y ~ dose | firm", TABLE, family="poisson")
SEVERAL = tg.fit("y ~ dose", TABLE, family=tg.ZeroInflated("poisson"))
FITS = {"plain": PLAIN, "robust": ROBUST, "absorbed": ABSORBED, "several": SEVERAL}


@pytest.mark.parametrize("name", FITS)
def test_maketables_reads_the_numbers_of_a_fit(name: str) -> None:
    fit = FITS[name]
    frame = fit.__maketables_coef_table__
    assert list(frame.index) == fit.names and frame.index.name == "Coefficient"
    for column, value in {"b": fit.coef, "se": fit.std_err, "t": fit.statistic, "p": fit.p_value}.items():
        np.testing.assert_array_equal(frame[column], value)
    np.testing.assert_array_equal(frame[["ci90l", "ci90u"]], fit.conf_int(0.9))
    for key in fit.__maketables_default_stat_keys__:
        assert fit.__maketables_stat__(key) is not None
    assert fit.__maketables_stat__("N") == 150 and fit.__maketables_stat__("rmse") is None
    assert fit.__maketables_depvar__ == "y" and fit.__maketables_vcov_info__["vcov_type"] == fit.covariance_kind
    assert fit.__maketables_fixef_string__ == ("firm" if name == "absorbed" else None)


def test_marginaleffects_finds_the_effects_of_a_fit() -> None:
    package = pytest.importorskip("marginaleffects")
    model_of = pytest.importorskip("torchglm.marginaleffects").Model
    table = TABLE | {
        "arm": G.choice(list("uvw"), 150),
        "years": G.uniform(0.5, 2, 150),
        "code": G.integers(0, 3, 150),
    }
    fits = [
        tg.fit("y ~ dose * arm + C(firm)", table, family="poisson", exposure="years"),
        tg.fit("code ~ dose + arm", table, family="ordinal"),
        tg.fit("y ~ dose + s(firm, k=4)", table, family=tg.ZeroInflated("poisson")),
    ]
    for fit in [*fits, fits[0].robust("HC3")]:
        found, want = package.avg_slopes(model_of(fit), variables="dose"), fit.marginal_effects(["dose"])
        found = found.sort("group") if "group" in found.columns else found  # the classes in their order
        np.testing.assert_allclose(found["estimate"], want.value, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found["std_error"], want.std_err, rtol=1e-3)  # by finite differences
    by_name = package.avg_slopes(model_of(fits[0]), variables="dose", vcov="HC3")
    np.testing.assert_allclose(
        by_name["std_error"], fits[0].robust("HC3").marginal_effects(["dose"]).std_err, rtol=1e-4
    )
    differences = package.avg_comparisons(model_of(fits[0]), variables="arm")
    want = fits[0].marginal_effects(["arm"])
    np.testing.assert_allclose(sorted(differences["estimate"]), sorted(want.value), rtol=1e-6)
    for wrong, said in ((ABSORBED, "absorbed"), (tg.fit(np.ones((4, 1)), np.ones(4), family="poisson"), "formula")):
        with pytest.raises(ValueError, match=said):
            model_of(wrong)


def test_a_batch_is_no_plug_in() -> None:
    batch = tg.fit(TABLE["dose"][:, None], np.stack([TABLE["y"], TABLE["y"]]), family="poisson")
    assert not hasattr(batch, "__maketables_coef_table__") and hasattr(batch[0], "__maketables_coef_table__")


def test_maketables_prints_fits() -> None:
    maketables = pytest.importorskip("maketables")
    text = maketables.ETable(list(FITS.values())).make(type="tex")
    assert "dose" in text and "Observations" in text and f"{float(PLAIN.coef[1]):.3f}" in text and "firm" in text
