"""The page's style sheet, and the few lines that sort and search its tables."""

# One colour for tilegrad; peers are greys with a hint of colour, darker in light than in dark.
STYLE = """
:root {
  color-scheme: light dark;
  --page: #fcfcfa; --panel: #f4f4f0; --ink: #1b1f24; --faint: #6a7178; --line: #e2e2dc;
  --ours: #1559c9; --behind: #a8561a;
  --peer0: #8f979e; --peer1: #b09a72; --peer2: #7fa08a; --peer3: #a98aa6; --peer4: #7d9cb0;
  --peer5: #b58d7d; --peer6: #9aa36f; --peer7: #8c8fb5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --panel: #1b1f23; --ink: #e3e6e8; --faint: #8d959c; --line: #2c3136;
    --ours: #6ea8ff; --behind: #e0a06a;
    --peer0: #858e96; --peer1: #a8946d; --peer2: #789a84; --peer3: #a3859f; --peer4: #7795a8;
    --peer5: #ad8677; --peer6: #929b69; --peer7: #8689ad;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 16px/1.6 system-ui, "Segoe UI", "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 4rem 2rem 6rem; }
h1 { font-size: 2.4rem; line-height: 1.15; font-weight: 300; letter-spacing: -.02em;
     margin: 0 0 .8rem; }
h1 b { font-weight: 700; color: var(--ours); }
h2 { font-size: 1.35rem; font-weight: 600; letter-spacing: -.01em; line-height: 1.3; margin: 0; }
h2 small { color: var(--faint); font-weight: 400; font-size: .8em; margin-left: .3em; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.lead { font-size: 1.12rem; max-width: 44em; margin: 0 0 2rem; }
.note { color: var(--faint); max-width: 46em; margin: .3rem 0 1.6rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
     gap: .9rem 2rem; margin: 0; font-size: .86rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
section, details { margin-top: 4rem; }
details { border-top: 1px solid var(--line); padding-top: 1.2rem; }
details + details { margin-top: 1.2rem; }
summary { cursor: pointer; }
summary h2 { display: inline; }
details ul { max-width: 46em; padding-left: 1.2rem; }
details li { margin: .5rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(13.5rem, 1fr));
         gap: .9rem; }
article { background: var(--panel); border-radius: 10px; padding: .95rem 1.1rem 1rem; }
article h3 { margin: 0; font-size: .86rem; font-weight: 500; overflow-wrap: anywhere; }
article strong { display: block; font-size: 2rem; line-height: 1.25; font-weight: 600;
                 letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
article small { display: block; color: var(--faint); font-size: .8rem; line-height: 1.4; }
.ahead strong { color: var(--ours); } .behind strong { color: var(--behind); }
.train { border-left: 3px solid var(--ours); }
.two, .three { display: grid; gap: 2.6rem 3rem; align-items: start; }
.two { grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
.three { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
figure { margin: 0; max-width: 36rem; break-inside: avoid; }
figcaption { font-size: .86rem; color: var(--faint); margin-bottom: .5rem; line-height: 1.4; }
figcaption b { color: var(--ink); font-weight: 600; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: system-ui, "Segoe UI", "Helvetica Neue", sans-serif !important;
           paint-order: stroke; stroke: var(--page); stroke-width: 2.5px;
           stroke-linejoin: round; }
input[type=search] { font: inherit; font-size: .86rem; color: inherit; background: var(--panel);
                     border: 1px solid var(--line); border-radius: 7px; padding: .35rem .7rem;
                     width: min(100%, 22rem); margin: 1rem 0 .8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .82rem;
        font-variant-numeric: tabular-nums; }
th { text-align: left; padding: 0; vertical-align: bottom; }
th button { all: unset; cursor: pointer; color: var(--faint); font-weight: 500;
            padding: .3rem .5rem; white-space: nowrap; }
th button:focus-visible { outline: 2px solid var(--ours); }
th[aria-sort] button { color: var(--ink); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td { padding: .34rem .5rem; border-top: 1px solid var(--line); vertical-align: top; }
td:not(.n) { min-width: 8rem; max-width: 26rem; overflow-wrap: break-word; }
.n { text-align: right; white-space: nowrap; }
td:first-child, th:first-child button { padding-left: 0; }
tr.ours td:nth-child(2) { color: var(--ours); font-weight: 600; white-space: nowrap; }
@media (max-width: 640px) {
  main { padding: 2rem 1.1rem 4rem; }
  h1 { font-size: 1.9rem; }
  .cards, dl { grid-template-columns: repeat(2, 1fr); }
  dl { gap: .8rem 1rem; font-size: .8rem; }
  article strong { font-size: 1.6rem; }
  svg text { stroke-width: 2px; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --panel: #f5f5f2; --ink: #111; --faint: #555;
          --line: #ddd; --ours: #1559c9; }
  main { max-width: none; padding: 0; }
  html { font-size: 10px; }
  body { font-size: 1rem; }
  input[type=search] { display: none; }
  .wide { overflow: visible; }
  td, th button { padding: .15rem .3rem; }
  td:not(.n) { min-width: 0; }
  @page { margin: 14mm; }
  .two { grid-template-columns: 1fr 1fr; } .three { grid-template-columns: 1fr 1fr 1fr; }
  tr, article { break-inside: avoid; }
}
"""

# Click a heading: sort, by numbers where cells have them. Type: hide other rows. Print: open all.
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => head.firstChild.onclick = () => {
    const up = head.ariaSort !== "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => {
      const cell = row.cells[i];
      return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent;
    };
    const order = (a, b) => typeof a === "number" && typeof b === "number"
      ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
    const rows = [...body.rows].sort((a, b) => order(value(a), value(b)));
    body.append(...(up ? rows : rows.reverse()));
  });
  table.parentElement.previousElementSibling.oninput = event => {
    const words = event.target.value.toLowerCase().split(/\\s+/);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
  };
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
"""
