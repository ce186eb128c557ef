/** The page's style; text has enough contrast in both color schemes, and stages differ in lightness, too. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #dfe3e8; --ink: #1c2229; --soft: #5c6773;
  --ring: #e6e9ee; --waiting: #7fb0f5; --taken: #f0a63c; --room: #cdd4dd;
  --driver: #1f5fd0; --device: #b35c00; --used: #14804a; --event: #8a4bc0;
  --good: #14804a; --bad: #b3261e; --warn: #fff3d6; --warn-ink: #6b4700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161b; --card: #1a2027; --line: #2d3640; --ink: #e5eaf0; --soft: #98a4b1;
    --ring: #2a323c; --waiting: #3d74c9; --taken: #c9822a; --room: #46515d;
    --driver: #8ab6ff; --device: #ffb866; --used: #5fd39a; --event: #cfa5f5;
    --good: #5fd39a; --bad: #ff9c94; --warn: #3b2f12; --warn-ink: #ffd98a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; }
main { max-width: 1500px; margin: 0 auto; padding: 16px 20px 40px; }
header { display: flex; align-items: baseline; gap: 12px; }
h1 { font-size: 22px; margin: 0 0 10px; }
h1 small { font-size: 14px; margin-right: 6px; }
h2 { font-size: 16px; margin: 0 0 6px; }
h1 small, h2 small { color: var(--soft); font-weight: 400; }
h3 { font-size: 13px; margin: 14px 0 4px; }
p { margin: 4px 0; }
.soft, figcaption, dt { color: var(--soft); font-size: 13px; }
.state { color: var(--soft); } .state.good { color: var(--good); }
.columns { display: grid; grid-template-columns: 200px minmax(0, 1fr) 300px; gap: 16px; align-items: start; }
nav section, article, aside { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; min-width: 0; }
nav { display: grid; gap: 10px; }
nav .chosen { border-color: var(--soft); }
nav h2 { font-size: 14px; margin-bottom: 2px; }
nav a { display: block; padding: 2px 8px; border-radius: 6px; color: inherit; text-decoration: none; }
nav a:hover, nav a:focus-visible { background: var(--ring); }
nav a[aria-current] { background: var(--driver); color: var(--card); }
nav a.off { color: var(--soft); }
.held { color: var(--device); font-size: 12px; }
nav a[aria-current] .held { color: inherit; }
.gate { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; margin: 10px 0; }
button { font: inherit; padding: 3px 14px; border-radius: 7px; border: 1px solid var(--soft); background: var(--card); color: var(--ink); cursor: pointer; }
button:hover:not(:disabled) { background: var(--ring); }
button:disabled { color: var(--soft); border-color: var(--line); cursor: default; }
.warning { background: var(--warn); color: var(--warn-ink); padding: 8px 12px; border-radius: 8px; }
.figures { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: center; justify-content: center; }
figure { margin: 0; text-align: center; max-width: 100%; }
.dial { flex: 1 1 240px; max-width: 320px; }
.dial svg { width: 100%; height: auto; display: block; }
svg.table { max-width: 100%; height: auto; }
svg text { fill: var(--ink); text-anchor: middle; font: 12px system-ui, sans-serif; }
svg text.index { font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
svg text.soft { fill: var(--soft); font-size: 13px; }
svg text.entry { font-size: 11px; pointer-events: none; }
.ring, .arc { fill: none; }
.ring { stroke: var(--ring); }
.arc.waiting { stroke: var(--waiting); } .arc.taken { stroke: var(--taken); } .arc.room { stroke: var(--room); }
.separators { stroke: var(--card); stroke-width: 1; }
.hand, .arc { transition: transform .2s ease-out, stroke-dasharray .2s ease-out; }
.hand.hidden { display: none; }
.hand .line { stroke-width: 2.5; }
.driver .line, .driver .tip { stroke: var(--driver); fill: var(--driver); }
.device .line, .device .tip { stroke: var(--device); fill: var(--device); }
.used .line, .used .tip { stroke: var(--used); fill: var(--used); }
.event .tip { stroke: var(--event); fill: none; stroke-width: 2; }
.cell rect { fill: var(--ring); } .cell.waiting rect { fill: var(--waiting); } .cell.taken rect { fill: var(--taken); }
.cell .mark { stroke: var(--ink); stroke-width: 2; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; vertical-align: -1px; background: var(--ring); }
.swatch.waiting { background: var(--waiting); } .swatch.taken { background: var(--taken); }
.swatch.driver { background: var(--driver); } .swatch.device { background: var(--device); } .swatch.used { background: var(--used); }
.swatch.event { background: none; border: 2px solid var(--event); }
.key { display: flex; flex-wrap: wrap; gap: 4px 16px; color: var(--soft); font-size: 13px; margin: 10px 0; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 3px 8px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; }
td:nth-child(-n+2) { width: 1%; white-space: nowrap; }
code { display: inline-block; margin-right: 10px; font: 12px ui-monospace, monospace; }
pre { font: 11px/1.5 ui-monospace, monospace; overflow-x: auto; margin: 4px 0; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0; }
dd { margin: 0; }
.bits { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px; }
.bits li { font: 11px ui-monospace, monospace; padding: 1px 6px; border-radius: 5px; border: 1px solid var(--line); color: var(--soft); overflow-wrap: anywhere; }
.bits li.on { color: var(--ink); border-color: var(--good); }
.bits li.bad { color: var(--bad); border-color: var(--bad); }
.bits.column { flex-direction: column; align-items: stretch; }
.bit { display: inline-block; min-width: 2ch; text-align: right; color: var(--soft); }
#notice { position: fixed; inset: auto 0 0; margin: 0; padding: 8px 20px; background: var(--warn); color: var(--warn-ink); }
#notice:empty { display: none; }
@media (max-width: 1100px) { .columns { grid-template-columns: 180px minmax(0, 1fr); } aside { grid-column: 1 / -1; } }
@media (max-width: 640px) {
  main { padding: 12px; }
  .columns { grid-template-columns: minmax(0, 1fr); }
  nav section { display: flex; flex-wrap: wrap; gap: 2px 6px; align-items: baseline; padding: 6px 10px; }
  nav { gap: 6px; }
}
@media (prefers-reduced-motion: reduce) { .hand, .arc { transition: none; } }
`;
