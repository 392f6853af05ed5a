"""What an error advises, said as flags and keys of a config where it speaks of arguments of Python."""

from __future__ import annotations

import re

TOP = "family|link|penalty|smoothing|quadrature|dispersion|lower|upper|constraints|monotone"
DATA = "predictors|weights|freq|offset|exposure|trials|event|until|missing|unseen|rare"
OF_COVARIANCE = "clusters|order|lags|type"
VALUE = r"""=(?:'([\w.]+)'|([\d.]+(?<!\.)))"""
_FIT = (
    (rf"\b({TOP}){VALUE}", r"\1: \2\3"),
    (rf"\b({DATA}){VALUE}", r"data.\1: \2\3"),
    (rf"\b({TOP}|{OF_COVARIANCE})=(?=[\s,.:;)]|$)", r"\1"),
    (rf"\b({DATA})=(?=[\s,.:;)]|$)", r"data.\1"),
    (r"\bcovariance\('(\w+)'\)", r"covariance: \1"),
    (rf"\b({OF_COVARIANCE}){VALUE}", r"\1: \2\3"),
    (r"\bTweedie\(power=([\d.]+\d)\)", r"family: {name: tweedie, power: \1}"),
    (r"\bsatterthwaite\(\)", "satterthwaite"),
    (r",? or LitIRLS\(head, penalty\)", ""),
    (r"\bUse torchglm\.fit\b", "Use solver: irls"),
    (r"\btorchglm\.fit\b", "solver irls"),
)
_ROWS = (
    (rf"\b(missing|unseen){VALUE}", r"--\1 \2\3"),
    (r"\brandom=False", "--fixed"),
    (rf"\b(link|dispersion){VALUE}", r"\1: \2\3"),
    (r"\brare=(\d+)", r"data.rare: \1"),
    (r" rare=,", " data.rare,"),
)
_OTHERS = ((rf"\b(missing|unseen){VALUE}", r"data.\1: \2\3"), *_ROWS[2:])


def in_flags(reason: str, command: str) -> str:
    """A message of Python in the words of a command."""
    said = _FIT if command == "fit" else _ROWS if command in ("predict", "evaluate") else _OTHERS
    for pattern, words in said:
        reason = re.sub(rf"(?<![\w.])(?<!\w\(){pattern}" if pattern[0] == "\\" else pattern, words, reason)
    return reason
