"""What notebooks show: the HTML of a table or a document in the look of the report, on light and dark pages."""

from __future__ import annotations

STYLE = """
.torchglm{max-width:100%;overflow-x:auto}
.torchglm dl{display:grid;grid-template-columns:repeat(4,max-content);gap:.1em 1em;margin:.6em 0}
.torchglm dt{opacity:.75}.torchglm dd{margin:0 1em 0 0;font-variant-numeric:tabular-nums}
.torchglm table{border-collapse:collapse;margin:.6em 0;font-variant-numeric:tabular-nums}
.torchglm caption{text-align:left;font-weight:600;padding:.2em 0}
.torchglm th,.torchglm td{text-align:right;white-space:nowrap;padding:.15em .6em;border:0}
.torchglm thead th{border-bottom:1px solid currentColor}
.torchglm tr>:first-child{text-align:left;padding-left:0}.torchglm tbody th{font-weight:inherit}
@media(max-width:640px){.torchglm dl{grid-template-columns:1fr 1fr}}
"""


def shown(html: str) -> str:
    """The HTML with a style of its own, which takes the colours of the page."""
    return f'<div class="torchglm"><style>{STYLE}</style>{html}</div>'
