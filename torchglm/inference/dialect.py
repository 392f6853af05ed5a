"""Advice in the words of the one who made the fit: of Python, or of the YAML file of a run."""

from __future__ import annotations

import re

from torchglm.inference.fitted import Fitted

YAML = "yaml"  # the entry of a fit's context that says it was made by a config
_WORDS = (
    (r"\bZeroInflated\('(\w+)'\)", r"`family: {name: zero_inflated, family: \1}`"),
    (r"\bHurdle\('(\w+)'\)", r"`family: {name: hurdle, family: \1}`"),
    (r"\bOrdinal\(free=\['(.+?)'\]\)", r"`family: {name: ordinal, free: [\1]}`"),
    (r"\bOrdinal\(link='(\w+)'\)", r"`family: {name: ordinal, link: \1}`"),
    (r"\bpredictors=\{'(\w+)': '~ \.\.\.'\}", r"`data: {predictors: {\1: ~ ...}}`"),
    (r"\blink=['\"](\w+)['\"]", r"`link: \1`"),
    (r"\bdispersion=['\"](\w+)['\"]", r"`dispersion: \1`"),
    (r"\bNegativeBinomial\(\)", "`family: negative_binomial`"),
    (r"\brobust\(['\"](\w+)['\"]\)", r"torchglm.load(RUN).robust('\1') in Python"),
    (r"\bresult\.check\(\)", "`torchglm check RUN`"),
    (r"\ba penalty such as Ridge\b", "a penalty such as `penalty: {name: ridge, l2: 0.1}`"),
    (r"\bpenalty=Jeffreys\(\)", "`penalty: jeffreys`"),
    (r"\bRaise max_iter\b", "Raise `solver.max_iter`"),
    (r"^max_iter was", "solver.max_iter was"),
    (r"\bPass start=, or use\b", "Use"),
    (r"\bfit once without it \(weight 0\)", "fit once without it"),
)


def spoken(result: Fitted, text: str) -> str:
    """A text that speaks Python, as it is for a fit made by Python, else with the keys and commands of a run."""
    if not result.context.get(YAML):
        return text
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return text
