"""The look of the interactive page: light or dark as the visitor has it, readable on a phone, no file besides."""

CSS = """
:root {
  color-scheme: light dark;
  --ground: #f5f6f8; --card: #ffffff; --ink: #17202b; --soft: #5a6675; --line: #d9dee5; --accent: #0b5cad;
  --accent-ink: #ffffff; --bar: #cfe1f5; --bad: #a3261b; --bad-ground: #fdeceb; --box: #ffb000;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #12161c; --card: #1b212a; --ink: #e7ecf2; --soft: #a4b0be; --line: #323c49; --accent: #6cb2ff;
    --accent-ink: #08131f; --bar: #26476b; --bad: #ffb4ab; --bad-ground: #3a1815; --box: #ffc640;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem 1rem; z-index: 2; }
header { padding: 1.4rem 1rem .4rem; max-width: 70rem; margin: 0 auto; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.05rem; margin: 0 0 .8rem; }
p { margin: 0 0 .6rem; }
.soft { color: var(--soft); font-size: .9rem; }
main {
  max-width: 70rem; margin: 0 auto; padding: .6rem 1rem 2rem; display: grid; gap: 1rem;
  grid-template-columns: minmax(0, 1.1fr) minmax(0, 1fr); align-items: start;
}
@media (max-width: 52rem) { main { grid-template-columns: minmax(0, 1fr); } }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: 1.1rem; }
.wide { grid-column: 1 / -1; }
.stack { display: grid; gap: 1rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(4.6rem, 1fr)); gap: .5rem; }
.gallery button { padding: 0; border: 2px solid transparent; border-radius: .5rem; background: none; cursor: pointer; }
.gallery button[aria-pressed="true"] { border-color: var(--accent); }
.gallery img {
  display: block; width: 100%; height: auto; aspect-ratio: 4 / 3; border-radius: .35rem; background: var(--line);
}
.stage {
  position: relative; max-width: 22rem; margin: 0 auto; line-height: 0; border-radius: .5rem; overflow: hidden;
  background: var(--line);
}
.stage img { width: 100%; aspect-ratio: 4 / 3; object-fit: fill; }
.stage svg { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.stage rect { fill: none; stroke: var(--box); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
label { font-weight: 600; display: block; margin-bottom: .3rem; }
.row { display: flex; gap: .6rem; flex-wrap: wrap; align-items: center; }
input[type="text"], input[type="password"], select {
  font: inherit; color: inherit; background: var(--ground); border: 1px solid var(--soft); border-radius: .5rem;
  padding: .55rem .7rem; min-width: 0; flex: 1 1 12rem;
}
button.main {
  font: inherit; font-weight: 600; color: var(--accent-ink); background: var(--accent); border: 0; border-radius: .5rem;
  padding: .6rem 1.3rem; cursor: pointer;
}
button.main[disabled] { opacity: .55; cursor: progress; }
.chips { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .6rem; }
.chips button {
  font: inherit; font-size: .85rem; color: inherit; background: var(--ground); border: 1px solid var(--line);
  border-radius: 1rem; padding: .2rem .7rem; cursor: pointer; text-align: left;
}
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.best { font-size: 2.2rem; font-weight: 700; line-height: 1.15; margin: 0 0 .2rem; overflow-wrap: anywhere; }
ol.answers { list-style: none; margin: .8rem 0 0; padding: 0; display: grid; gap: .35rem; }
ol.answers li { display: grid; grid-template-columns: 7rem 1fr 3.6rem; gap: .6rem; align-items: center; }
ol.answers .label { overflow-wrap: anywhere; }
ol.answers .score { text-align: right; font-variant-numeric: tabular-nums; }
.bar { background: var(--ground); border-radius: .3rem; height: .9rem; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--bar); border-right: 3px solid var(--accent); }
dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem .9rem; margin: 1rem 0 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.error { color: var(--bad); background: var(--bad-ground); border-radius: .5rem; padding: .6rem .8rem; margin: 0; }
.note { border-left: 4px solid var(--box); padding: .1rem .7rem; margin: .8rem 0 0; font-size: .9rem; }
[hidden] { display: none !important; }
@media (prefers-reduced-motion: no-preference) { .bar i { transition: width .25s; } }
"""
