"""The commands beside fit: predict, evaluate, summary, check, report and compare."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from torchglm.cli.comparison import comparison, to_text
from torchglm.cli.evaluate import evaluation
from torchglm.cli.loading import load_run
from torchglm.cli.predict import KINDS, Prediction, Wanted, outcome, write
from torchglm.cli.printing import print_document, print_json, print_summary
from torchglm.cli.progress import waiting
from torchglm.cli.run_rows import attached, configured, of_the_fit
from torchglm.inference.levels import check_level
from torchglm.store import runs


def summary(arguments: Sequence[str]) -> None:
    """`torchglm summary RUN`: print the summary of a run."""
    parser = argparse.ArgumentParser(prog="torchglm summary", description="Print the summary of a run.")
    parser.add_argument("run", metavar="RUN", help="run folder of a fit (its output_dir)")
    parser.add_argument("--level", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    parser.add_argument(
        "--format", choices=("text", "markdown", "json"), default="text", help="how to print it (default: text)"
    )
    given = parser.parse_args(arguments)
    result = load_run(runs.open_run(given.run))
    print_summary(result, given.level, given.format)


def predict(arguments: Sequence[str]) -> None:
    """`torchglm predict RUN DATA ...`: means for new rows, streamed from files to files."""
    parser = argparse.ArgumentParser(
        prog="torchglm predict",
        description="Predict the mean of new rows with a fitted run. Rows are read, "
        "predicted and written in pieces, so files of any size will do.",
    )
    _add_rows(parser)
    parser.add_argument(
        "--out",
        metavar="PLACE",
        help="file to write, .csv or .parquet, or a folder, which gets a "
        "file for each file read, or - for the terminal (default: predictions.parquet in the run "
        "folder)",
    )
    parser.add_argument(
        "--keep",
        metavar="COLUMNS",
        action="append",
        default=[],
        help="columns to carry along, "
        "such as policy,year; may be given again, as for a column whose name holds a comma",
    )
    parser.add_argument(
        "--kind",
        metavar="NAME",
        action="append",
        help="what to predict in place of the mean: a parameter of a law of several predictors, such as dispersion, "
        "zero or scale; may be given again. Classes have a column each, such as probability_low",
    )
    parser.add_argument("--link", action="store_true", help="add the linear predictor")
    parser.add_argument("--se", action="store_true", help="add standard errors (of the mean, and of --link)")
    parser.add_argument(
        "--interval",
        metavar="LEVEL",
        type=float,
        help="add the confidence interval of the mean, such as 0.95: mean_low, mean_high",
    )
    parser.add_argument(
        "--response",
        metavar="LEVEL",
        type=float,
        help="add the prediction interval of a response yet to be seen: response_low, response_high",
    )
    parser.add_argument(
        "--fixed",
        action="store_true",
        help="leave random effects out, as --se, --interval and --response do, which are those of the fixed effects",
    )
    given = parser.parse_args(arguments)
    for level, flag in ((given.interval, "--interval"), (given.response, "--response")):
        check_level(0.5 if level is None else level, said=flag)
    folder = runs.open_run(given.run)
    kinds = dict.fromkeys([*(given.kind or KINDS[:1]), *(KINDS[1:] if given.link else ())])
    wanted = Wanted(tuple(kinds), given.se, given.interval, given.response, given.fixed)
    prediction = Prediction.of(folder, wanted, given.keep, given.missing, given.unseen, given.data)
    out = given.out or str(folder / "predictions.parquet")
    rows = write(prediction, given.data, out)
    runs.remember(out)
    print(outcome(prediction, rows, out), file=sys.stderr if out == "-" else sys.stdout)


def evaluate(arguments: Sequence[str]) -> None:
    """`torchglm evaluate RUN DATA ...`: how well a run predicts rows, streamed."""
    parser = argparse.ArgumentParser(
        prog="torchglm evaluate",
        description="Score a fitted run on rows with a known response: deviance, explained "
        "share, likelihood, dispersion, observed against expected, calibration by decile, Gini and lift, with the "
        "weights and exposures of the fit. Rows are read in pieces, so files of any size will do.",
    )
    _add_rows(parser)
    parser.add_argument(
        "--by", metavar="COLUMN", help="add a table of observed against expected for each value of a column"
    )
    parser.add_argument("--bins", type=int, default=10, help="bins of the calibration table (default: 10)")
    parser.add_argument(
        "--coverage",
        metavar="LEVEL",
        type=float,
        help="add the share of responses inside their prediction intervals of this level, such as 0.95",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print it (default: text)")
    given = parser.parse_args(arguments)
    check_level(0.5 if given.coverage is None else given.coverage, said="--coverage")
    folder = runs.open_run(given.run)
    found = evaluation(
        folder,
        given.data,
        by=given.by,
        bins=given.bins,
        coverage=given.coverage,
        missing=given.missing,
        unseen=given.unseen,
    )
    if given.format == "json":
        print_json(found.to_dict())
        return
    print_document(found.document())


def _add_rows(parser: argparse.ArgumentParser) -> None:
    """The arguments of a command that reads rows for a run."""
    parser.add_argument("run", metavar="RUN", help="run folder of a fit (its output_dir)")
    parser.add_argument("data", metavar="DATA", nargs="+", help=".csv or .parquet files, globs or folders")
    parser.add_argument(
        "--missing",
        choices=("error", "drop"),
        help="what becomes of rows with missing values (default: as data.missing of the fit)",
    )
    parser.add_argument(
        "--unseen",
        choices=("error", "reference", "other"),
        help="what a category that the fit never saw counts as (default: as data.unseen of the fit); with "
        "reference or other, predictions for a group without a model stay empty",
    )


def check(arguments: Sequence[str]) -> None:
    """`torchglm check RUN`: say what speaks against the model of a run, in plain sentences."""
    parser = argparse.ArgumentParser(
        prog="torchglm check",
        description="Ask whether the model of a run holds, on the rows it was fitted on: link, "
        "spread, zeros, separation, collinearity, influence. Prints what was found, with its number and what to try.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder of a fit (its output_dir)")
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="the rows the run was fitted on, where they are no longer "
        "where its config says: .csv or .parquet file, a glob or a folder",
    )
    parser.add_argument("--level", type=float, default=0.05, help="level of all tests together (default: 0.05)")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print it (default: text)")
    given = parser.parse_args(arguments)
    folder = runs.open_run(given.run)
    with waiting(f"Checking {given.run}"):
        found = attached(load_run(folder), folder, given.data).check(given.level)
    if given.format == "text":
        print(found)
        return
    print_json(found.to_dict())


def report(arguments: Sequence[str]) -> None:
    """`torchglm report RUN`: write the page of a run, on the rows of its fit or on new ones."""
    from torchglm.report.page import write_page

    parser = argparse.ArgumentParser(
        prog="torchglm report",
        description="Write the HTML page of a run. Without --data it stands on the rows of the "
        "fit; with --data on those rows: calibration, lift and residuals where they are new, and everything where they "
        "are the rows of the fit.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder of a fit (its output_dir)")
    parser.add_argument(
        "--data",
        metavar="FILE",
        help=".csv or .parquet file, a glob or a folder (default: the rows that the config of the run names)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="page to write (default: report.html in the run folder; on new rows report_NAME.html, after the file)",
    )
    parser.add_argument("--title", help="title of the page (default: the model)")
    parser.add_argument("--level", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    given = parser.parse_args(arguments)
    check_level(given.level, said="--level")
    folder = runs.open_run(given.run)
    config = folder / "config.yaml"
    with waiting(f"Writing the report of {given.run}"):
        result = attached(load_run(folder), folder, given.data)
        own = of_the_fit(result)
        if not own and given.data is None:
            raise ValueError(
                f"the rows that {config} names are no longer those of the fit (its deviance is another). "
                "Pass --data: the rows of the fit, or new ones."
            )
        out = Path(given.out) if given.out else folder / ("report.html" if own else f"report_{_stem(given.data)}.html")
        if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
            raise ValueError(f"--out {out}: name a file that ends in .html.")
        write_page(
            result,
            out,
            title=given.title,
            level=given.level,
            new_rows=not own,
            run=folder.resolve().name,
            data=given.data or configured(folder),
            config=config.read_text(encoding="utf-8") if config.is_file() else None,
        )
    runs.remember(out)
    print(f"Report{'' if own else ' on new rows'}: {out}")


def compare(arguments: Sequence[str]) -> None:
    """`torchglm compare RUN RUN ...`: runs of the same rows side by side."""
    parser = argparse.ArgumentParser(
        prog="torchglm compare",
        description="Show runs side by side that were fitted on the same rows: parameters, "
        "deviance, AIC, BIC, explained share, and the likelihood ratio test of each run against the one before it "
        "where the two are nested. The rows are read again where the files are still there.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders of fits (their output_dir), two or more")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print it (default: text)")
    given = parser.parse_args(arguments)
    if len(given.runs) < 2:
        raise ValueError(f"compare needs at least two runs, got {given.runs[0]}. Name another run folder.")
    with waiting(f"Comparing {len(given.runs)} runs"):
        found = comparison(given.runs)
    if given.format == "text":
        print(to_text(found))
        return
    print_json(found)


def _stem(data: str) -> str:
    """The name of a file without its ending, for the name of another; of a glob what can stand in a name."""
    return re.sub(r"[^\w.-]+", "_", Path(data).stem).strip("_") or "rows"
