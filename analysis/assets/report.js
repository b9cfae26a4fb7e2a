"use strict";
// Sorting by click on a column's name, filtering by words and by space. The state stands in the page's fragment.
(() => {
  const words = document.getElementById("filter");
  const space = document.getElementById("space");
  const shown = document.getElementById("shown");
  const bodies = [...document.querySelectorAll("table.sortable tbody")];
  const order = new Map(bodies.map((body) => [body, [...body.rows]]));

  function filter() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    let total = 0;
    for (const body of bodies) {
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        const here = space.value === "" || (row.dataset.space || space.value) === space.value;
        row.hidden = !here || !wanted.every((word) => text.includes(word));
        total += 1;
        visible += row.hidden ? 0 : 1;
      }
    }
    for (const part of document.querySelectorAll("section[data-space], .panel[data-space]")) {
      part.hidden = space.value !== "" && part.dataset.space !== space.value;
    }
    shown.textContent = `${visible} of ${total} rows match`;
  }

  function remember() {
    const state = new URLSearchParams();
    if (words.value) state.set("filter", words.value);
    if (space.value) state.set("space", space.value);
    history.replaceState(null, "", `#${state}`);
  }

  // Numbers before texts, missing values last whatever the direction.
  function compare(left, right, direction) {
    const [a, b] = [left, right].map((cell) => cell.dataset.value);
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    const numbers = !Number.isNaN(x) && !Number.isNaN(y);
    return direction * (numbers ? x - y : a.localeCompare(b));
  }

  function sort(header) {
    const table = header.closest("table");
    const body = table.tBodies[0];
    const old = header.getAttribute("aria-sort");
    const next = old === "ascending" ? "descending" : old === "descending" ? "none" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", next);
    const rows = [...order.get(body)];
    const direction = next === "descending" ? -1 : 1;
    const column = header.cellIndex;
    const own = rows.filter((row) => !row.classList.contains("reference"));
    const rest = rows.filter((row) => row.classList.contains("reference"));
    if (next !== "none") own.sort((a, b) => compare(a.cells[column], b.cells[column], direction));
    body.append(...(next === "none" ? rows : [...own, ...rest]));
  }

  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    words.value = state.get("filter") || "";
    space.value = state.get("space") || "";
    if (space.selectedIndex < 0) space.value = "";
    const table = document.getElementById(state.get("table") || "");
    const header = table && table.tHead.rows[0].cells[Number(state.get("column"))];
    if (header) sort(header);
    filter();
  }

  for (const header of document.querySelectorAll("table.sortable th")) {
    header.querySelector("button").addEventListener("click", () => sort(header));
  }
  for (const input of [words, space]) {
    input.addEventListener("input", () => { filter(); remember(); });
  }
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  restore();
})();
