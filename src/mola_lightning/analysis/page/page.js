"use strict";
// Sorting, searching, opening of details, choice of colours. Nothing is loaded and nothing is sent.
(() => {
  const collator = new Intl.Collator(undefined, { numeric: true });

  // The value of a row in a column: a number or a text; null where there is none.
  function valueOf(body, column, numeric) {
    const cell = body.rows[0].cells[column];
    if (numeric) return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    return cell.textContent.trim() || null;
  }

  function sortBy(header) {
    const table = header.closest("table");
    const turned = { ascending: "descending", descending: "ascending" }[header.getAttribute("aria-sort")];
    const order = turned || header.dataset.first;
    const numeric = header.dataset.kind === "number";
    const sign = order === "ascending" ? 1 : -1;
    const keyed = [...table.tBodies].map((body) => [valueOf(body, header.cellIndex, numeric), body]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // missing values come last in either order
      return sign * (numeric ? a - b : collator.compare(a, b));
    });
    table.append(...keyed.map(([, body]) => body));
    for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order);
  }

  function search(words) {
    const bodies = [...document.querySelectorAll(".runs table.sortable > tbody")];
    let shown = 0;
    for (const body of bodies) {
      const text = `${body.rows[0].textContent} ${body.dataset.search || ""}`.toLowerCase();
      body.hidden = !words.every((word) => text.includes(word));
      shown += !body.hidden;
    }
    const all = `${bodies.length} ${bodies.length === 1 ? "run" : "runs"}`;
    document.getElementById("shown").textContent = words.length ? `${shown} of ${all}` : all;
  }

  for (const header of document.querySelectorAll("table.sortable > thead th")) {
    header.querySelector("button").addEventListener("click", () => sortBy(header));
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.opens");
    if (!button) return;
    const details = document.getElementById(button.getAttribute("aria-controls"));
    details.hidden = !details.hidden;
    button.setAttribute("aria-expanded", String(!details.hidden));
  });
  const box = document.getElementById("search");
  box.addEventListener("input", () => search(box.value.toLowerCase().split(/\s+/).filter(Boolean)));
  search([]);

  const colours = document.getElementById("colours");
  function paint(choice) {
    if (choice === "system") delete document.documentElement.dataset.colours;
    else document.documentElement.dataset.colours = choice;
  }
  let kept = null;
  try { kept = localStorage.getItem("mola-report-colours"); } catch { /* a browser may keep nothing for local files */ }
  if (kept === "light" || kept === "dark") { colours.value = kept; paint(kept); }
  colours.addEventListener("change", () => {
    paint(colours.value);
    try { localStorage.setItem("mola-report-colours", colours.value); } catch { /* then it holds for this visit */ }
  });
})();
