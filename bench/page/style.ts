/** The page's style; both colour schemes have enough contrast for text, and bars told apart by lightness. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --line: #dfe3e8; --ink: #1c2229; --soft: #5c6773;
  --own: #2f6fde; --qemu: #b3bac4; --other: #8a93a0; --dot: #14181d; --warn: #fff3d6; --warn-ink: #6b4700;
  --tint: 47, 111, 222;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161b; --card: #1a2027; --line: #2d3640; --ink: #e5eaf0; --soft: #98a4b1;
    --own: #5b92f0; --qemu: #596573; --other: #75808c; --dot: #f3f6f9; --warn: #3b2f12; --warn-ink: #ffd98a;
    --tint: 91, 146, 240;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1340px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 36px 0 12px; }
h3 { font-size: 16px; margin: 0; }
p { margin: 4px 0; }
.soft, .unit { color: var(--soft); font-size: 13px; }
.warning { background: var(--warn); color: var(--warn-ink); padding: 10px 14px; border-radius: 8px; margin: 14px 0; font-weight: 600; }
.key { display: flex; flex-wrap: wrap; gap: 6px 20px; margin: 12px 0 0; color: var(--soft); font-size: 13px; }
.key svg { width: 34px; height: 14px; vertical-align: -2px; margin-right: 6px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 18px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; min-width: 0; }
.card > svg { display: block; width: 100%; height: auto; margin: 8px 0 4px; }
svg text { font: 12.5px system-ui, sans-serif; fill: var(--ink); }
svg .tick { fill: var(--soft); font-size: 11px; }
svg .value { text-anchor: end; font-weight: 600; font-variant-numeric: tabular-nums; }
svg .times { text-anchor: end; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); }
svg .own { fill: var(--own); } svg .qemu { fill: var(--qemu); } svg .other { fill: var(--other); }
svg .span { stroke: var(--dot); stroke-width: 1.3; }
svg .dot { fill: var(--dot); fill-opacity: .75; stroke: var(--card); stroke-width: .8; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:last-child td { border-bottom: 0; }
td.best { font-weight: 700; }
td.share {
  background: linear-gradient(rgba(var(--tint), .22), rgba(var(--tint), .22)) no-repeat right center;
  background-origin: content-box; background-clip: content-box;
}
details th, details td { padding: 4px 6px; }
details th:first-child, details td:first-child { padding-left: 0; }
details { margin-top: 8px; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; }
ul { margin: 8px 0; padding-left: 20px; font-size: 13px; }
`;
