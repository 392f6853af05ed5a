"""Make the data files beside this script again: `python examples/data/make_data.py`.

Most come from the package statsmodels, which carries public-domain data sets; `digits` comes from scikit-learn and
`support` from SurvSet (`pip install SurvSet`); `followup_simulated` is simulated here. Sources and licence statements
stand in the file NOTICE at the root of the repository.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import statsmodels.datasets as sets
from pyarrow import parquet

HERE = Path(__file__).resolve().parent


def randhie() -> pd.DataFrame:
    """RAND Health Insurance Experiment, 1974-1982: one row per person and year, 20,190 rows.

    visits           outpatient visits to a physician in the year
    eligible         part of the year in which the person was eligible (the exposure), in (0, 1]
    spending         medical spending in the year, dollars (0 for 22 % of the rows)
    log_coinsurance  log(1 + coinsurance rate in percent); 0 is free care
    individual_plan  1 if the deductible is the individual's, 0 if the family's
    log_incentive    log(max(1, annual participation incentive payment))
    log_deductible   0 on individual plans, else log(max(1, maximum expenditure / (0.01 coinsurance)))
    health           own rating: excellent, good, fair, poor
    health_index     general health index, 0 to 100; missing for a quarter of the rows
    chronic          index of chronic diseases
    limitation       1 with a physical limitation (between 0 and 1 where imputed)
    income           yearly family income, thousands of dollars
    age, female      years; 1 for women and girls
    education        years of schooling of the decision maker
    family_size      persons
    site, plan       numbers of the study site (6) and of the insurance plan
    year, person     study year (1 to 5); number of the person, for clustered standard errors
    """
    source = Path(sets.randhie.__file__).parent / "src" / "randhie.csv"
    whole = pd.read_csv(source)
    short = sets.randhie.load_pandas().data
    ratings = ["excellent", "good", "fair", "poor"]
    rating = np.select([short.hlthg == 1, short.hlthf == 1, short.hlthp == 1], ratings[1:], ratings[0])
    integers = {"individual_plan": "idp", "female": "female", "family_size": "num", "site": "site"}
    return pd.DataFrame(
        {
            "visits": short.mdvis.astype("int16"),
            "eligible": whole.time,
            "spending": whole.meddol.astype("float32"),
            "log_coinsurance": short.lncoins,
            "log_incentive": short.lpi,
            "log_deductible": short.fmde,
            "health": pd.Categorical(rating, categories=ratings),
            "health_index": whole.ghindx.astype("float32"),
            "chronic": short.disea,
            "limitation": short.physlm,
            "income": (whole.income / 1000).round(3),
            "age": whole.xage.round(2),
            "education": whole.educdec.astype("float32"),
            **{name: whole[old].astype("int8") for name, old in integers.items()},
            "plan": whole.plan.astype("int8"),
            "year": whole.year.astype("int8"),
            "person": whole.zper.astype("int32"),
        }
    )


def anes96() -> pd.DataFrame:
    """American National Election Study 1996: the vote of 944 people. Scales run from 1 or 0 upward."""
    names = {
        "vote": "vote",  # 1 for Dole, 0 for Clinton
        "PID": "party",  # 0 strong Democrat to 6 strong Republican
        "age": "age",
        "educ": "education",  # 1 to 7
        "income": "income",  # 24 classes
        "selfLR": "left_right",  # 1 extremely liberal to 7 extremely conservative
        "TVnews": "tv_news",  # days a week
        "popul": "population",  # of the place, thousands
    }
    frame = sets.anes96.load_pandas().data[list(names)].rename(columns=names)
    frame["vote"] = pd.Categorical.from_codes(frame.vote.astype(int), ["Clinton", "Dole"])
    return frame.astype({name: "int32" for name in frame.columns if name != "vote"})


def statecrime() -> pd.DataFrame:
    """Crime in the 50 states of the USA and DC, 2009: rates per 100,000, the rest in percent."""
    return sets.statecrime.load_pandas().data.rename_axis("state").reset_index()


def longley() -> pd.DataFrame:
    """Longley's employment data, 1947-1962: 16 rows, nearly collinear, a test of least squares since 1967."""
    return sets.longley.load_pandas().data.rename(columns=str.lower)


def grunfeld() -> pd.DataFrame:
    """Grunfeld's investment data: 11 firms, 20 years each, millions of 1947 dollars."""
    frame = sets.grunfeld.load_pandas().data
    return frame.astype({"year": "int16"})[["firm", "year", "invest", "value", "capital"]]


def strikes() -> pd.DataFrame:
    """Length in days of 62 strikes in manufacturing, and unanticipated industrial production."""
    return sets.strikes.load_pandas().data.rename(columns={"iprod": "production"})


def followup() -> pd.DataFrame:
    """SIMULATED: months to relapse of 2,000 patients, censored at the end of follow-up.

    time is exponential with log mean 2.5 + 0.5 treated - 0.03 (age - 60) - 0.4 [stage II] - 0.9 [stage III];
    relapse is 1 where it was seen, 0 where follow-up (uniform on 3 to 24 months) ended before.
    """
    random = np.random.default_rng(1972)
    n = 2000
    age = random.normal(60, 10, n).round(1)
    treated = random.integers(0, 2, n)
    stage = random.choice(["I", "II", "III"], n, p=[0.5, 0.3, 0.2])
    slope = np.select([stage == "II", stage == "III"], [-0.4, -0.9], 0.0)
    relapse = random.exponential(np.exp(2.5 + 0.5 * treated - 0.03 * (age - 60) + slope))
    end = random.uniform(3, 24, n)
    return pd.DataFrame(
        {
            "time": np.minimum(relapse, end).clip(0.001).round(3),
            "relapse": (relapse <= end).astype("int8"),
            "treated": treated.astype("int8"),
            "age": age,
            "stage": stage,
        }
    )


def digits() -> pd.DataFrame:
    """1,797 handwritten digits by 13 people: `digit`, and 8 x 8 pixels r0c0 ... r7c7 in 0 to 16, row by row."""
    from sklearn.datasets import load_digits

    source = load_digits()
    pixels = pd.DataFrame(source.data.astype("int8"), columns=[f"r{k // 8}c{k % 8}" for k in range(64)])
    return pd.concat([pd.Series(source.target.astype("int8"), name="digit"), pixels], axis=1)


def support() -> pd.DataFrame:
    """SUPPORT, 1989-1994: survival of 9,105 seriously ill patients in five hospitals of the USA, from the third day.

    days, died       follow-up, and 1 where it ended in death (two thirds), 0 where it was censored
    disease          one of eight groups
    cancer           no, yes, metastatic
    age, female      years; 1 for women
    comorbidities    their number; diabetes and dementia are 1 where known
    coma             SUPPORT coma score, 0 to 100
    pressure, heart_rate, breath_rate, temperature, sodium, white_cells, creatinine, albumin, bilirubin, oxygen
                     of the third day, missing where they were not measured; oxygen is PaO2 / FiO2
    """
    from SurvSet.data import SurvLoader

    names = {
        "num_age": "age",
        "num_scoma": "coma",
        "num_meanbp": "pressure",
        "num_hrt": "heart_rate",
        "num_resp": "breath_rate",
        "num_temp": "temperature",
        "num_sod": "sodium",
        "num_wblc": "white_cells",
        "num_crea": "creatinine",
        "num_alb": "albumin",
        "num_bili": "bilirubin",
        "num_pafi": "oxygen",
    }
    whole = SurvLoader().load_dataset("support2")["df"].sort_values("pid", ignore_index=True)
    return pd.DataFrame(
        {
            "days": whole.time.astype("int16"),
            "died": whole.event.astype("int8"),
            "disease": whole.fac_dzgroup.astype(str),
            "cancer": whole.fac_ca.astype(str),
            "female": (whole.fac_sex == "female").astype("int8"),
            "comorbidities": whole.num_num_co.astype("int8"),
            "diabetes": whole.fac_diabetes.astype("int8"),
            "dementia": whole.fac_dementia.astype("int8"),
            **{new: whole[old].round(3).astype("float32") for old, new in names.items()},
        }
    )


FILES = {
    "randhie": randhie,
    "anes96": anes96,
    "statecrime": statecrime,
    "longley": longley,
    "grunfeld": grunfeld,
    "strikes": strikes,
    "digits": digits,
    "support": support,
    "followup_simulated": followup,
}


def main() -> None:
    for name, make in FILES.items():
        path = HERE / f"{name}.parquet"
        table = pa.Table.from_pandas(make(), preserve_index=False).replace_schema_metadata()
        parquet.write_table(table, path, compression="zstd", compression_level=19, row_group_size=8192)
        print(f"{path.name:30} {table.num_rows:6} rows {path.stat().st_size / 1000:8.1f} kB")


if __name__ == "__main__":
    main()
