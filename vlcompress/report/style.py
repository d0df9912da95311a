"""The look of the page: one style sheet, written into the page; light or dark as the reader has it."""

CSS = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.headline { font-size: 1.15rem; background: var(--soft); border-left: 4px solid #0072b2; padding: .8rem 1rem; }
.missing { border-left: 4px solid #e69f00; background: var(--soft); padding: .5rem 1rem; }
.wide { overflow-x: auto; } figure { margin: 1rem 0; } figcaption { opacity: .8; font-size: .9rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .45rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } .number { text-align: right; } td.number { white-space: nowrap; } .text { text-align: left; }
.wide + .wide { margin-top: 1.2rem; } td.text { white-space: nowrap; }
td.text.long { white-space: normal; min-width: 17rem; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; margin: .6rem 0; }
@media print { details > * { display: block; } body { max-width: none; } }
"""
