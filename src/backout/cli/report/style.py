"""How the HTML report looks: on a screen, light or dark, and on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6570; --line: #dfe3e8; --paper: #fff; --panel: #f6f7f9;
  --good: #17663a; --good-bg: #e4f4ea; --warn: #7a4b00; --warn-bg: #fdf0d5; --bad: #a01c22; --bad-bg: #fde8e8; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #333a42;
  --paper: #15181c; --panel: #1d2126; --good: #7fd6a1; --good-bg: #16301f; --warn: #f0c069; --warn-bg: #35280f;
  --bad: #ff9a97; --bad-bg: #3b1b1c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 1.2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 0 0 .5rem; }
h4 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .5rem 0; }
.subtitle { color: var(--soft); margin: 0 0 .9rem; font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace;
  font-size: .85rem; overflow-wrap: anywhere; }
.badges { margin: 0; }
.badge { display: inline-block; font-size: .78rem; font-weight: 600; line-height: 1.4; padding: .1rem .6rem;
  border-radius: 1rem; border: 1px solid var(--line); background: var(--panel); color: var(--soft);
  margin: 0 .35rem .3rem 0; vertical-align: middle; }
.badge.good { color: var(--good); background: var(--good-bg); border-color: transparent; }
.badge.warn { color: var(--warn); background: var(--warn-bg); border-color: transparent; }
.badge.bad { color: var(--bad); background: var(--bad-bg); border-color: transparent; }
.level3 { border: 1px solid var(--line); border-radius: .5rem; padding: 1.1rem 1.3rem; margin: 1rem 0; }
.level4 { border-top: 1px solid var(--line); margin-top: 1.1rem; padding-top: 1rem; }
dl { display: grid; grid-template-columns: minmax(8rem, 13rem) 1fr; gap: .35rem 1.2rem; margin: .6rem 0; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { white-space: nowrap; text-align: left; font-weight: 600; color: var(--soft); font-size: .82rem; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
table:not(.diff) td:first-child { white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .82rem; font-weight: 600; padding-bottom: .3rem; }
code { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; font-size: .86em; overflow-wrap: anywhere; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre code { font-size: .9rem; }
.command { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .9rem;
  margin: .6rem 0; }
.command .about { color: var(--soft); font-size: .85rem; margin: .2rem 0 0; }
.diff td { padding: .25rem .6rem .25rem 0; }
.diff .mark { width: 1.4rem; text-align: center; font-weight: 700; padding-left: .4rem;
  font-family: ui-monospace, Menlo, "DejaVu Sans Mono", monospace; }
.inserted .mark { color: var(--good); background: var(--good-bg); }
.deleted .mark { color: var(--bad); background: var(--bad-bg); }
.updated .mark { color: var(--warn); background: var(--warn-bg); }
.diff .mark + td { padding-left: .7rem; }
.change { display: inline-block; margin-left: 1.1rem; }
.name { color: var(--soft); font-size: .88em; }
del { text-decoration: none; color: var(--bad); }
ins { text-decoration: none; color: var(--good); }
.null { color: var(--soft); font-style: italic; font-size: .88em; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); } .quiet { color: var(--soft); }
.listing { list-style: none; margin: .6rem 0; padding: 0; font-size: .92rem; }
.listing li { padding-left: 1.5rem; text-indent: -1.5rem; }
.listing li::before { display: inline-block; width: 1.5rem; text-indent: 0; content: "·"; font-weight: 700; }
.listing .good::before { content: "✓"; } .listing .warn::before { content: "!"; } .listing .bad::before { content: "✗"; }
.listing .good, .listing .quiet { color: var(--ink); } .listing .good::before { color: var(--good); }
.note.warn, .note.bad { border-left: 3px solid; padding: .3rem .8rem; background: var(--warn-bg); }
.note.bad { background: var(--bad-bg); }
a { color: inherit; }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .82rem; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
@media print {
  @page { margin: 16mm 14mm; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; }
  h2, h3, h4, caption { break-after: avoid; }
  tr, dt, dd, .command, .note, .listing li { break-inside: avoid; }
  .wide { overflow: visible; } table { font-size: 8.5pt; }
  .badge, .mark, .note, .command { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  a[href]::after { content: ""; }
}
"""
