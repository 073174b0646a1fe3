// Charts in the colours of the page, their data as tables, and the origin of every number.
"use strict";
window.RESEED = { charts: {}, latents: null, examples: {}, views: {} };

(() => {
  const sources = JSON.parse(document.getElementById("sources").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function config(narrow) {
    const ink = colour("ink"), quiet = colour("quiet"), line = colour("line");
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent", font, padding: 4,
      axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: quiet, tickColor: quiet, labelLimit: 150,
              labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", tickCount: 5 },
      legend: { labelColor: ink, titleColor: quiet, orient: "bottom", direction: "horizontal", columns: narrow ? 1 : 4,
                layout: { bottom: { direction: narrow ? "vertical" : "horizontal", anchor: "start", margin: 12 } }, labelFontSize: 11, titleFontSize: 11,
                symbolFillColor: quiet, symbolStrokeColor: quiet, symbolBaseFillColor: quiet, symbolBaseStrokeColor: quiet, gradientLength: 120 },
      view: { stroke: line },
      rule: { color: quiet }, tick: { color: colour("null") }, line: { color: quiet }, bar: { color: colour("trained") },
      point: { color: colour("trained") },
      range: { category: ["trained", "random_model", "gaussian", "other", "good", "bad"].map(colour), ramp: ["ramp-low", "ramp-high"].map(colour) },
    };
  }

  // Columns and rows as Vega reads them.
  const objects = ({ columns, rows }) => rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])));

  async function draw(place) {
    const name = place.dataset.chart, chart = RESEED.charts[name];
    const values = chart.rows.length || !RESEED.shown ? objects(chart) : RESEED.shown;
    const spec = {
      ...chart.spec,
      $schema: undefined,
      description: `${place.dataset.title}. ${place.closest("figure").querySelector("figcaption").textContent}`,
      data: { name: "rows", values },
    };
    const many = values.length > 1500 && name === "latents";
    const { view } = await vegaEmbed(place, spec, { actions: false, config: config(place.clientWidth < 640), renderer: many ? "canvas" : "svg", mode: "vega-lite" });
    RESEED.views[name] = view;
    place.querySelector("form")?.remove(); // of Vega, empty: the controls are the page's own
    for (const select of document.querySelectorAll(`select[data-for="${name}"]`)) view.signal(select.dataset.parameter, select.value);
    await view.runAsync();
    // one picture with words of its own: Vega's words for every mark are of no use
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", spec.description);
    place.querySelector("svg, canvas").setAttribute("aria-hidden", "true");
    view.addEventListener("click", (_, item) => { if (item?.datum?.url) location.assign(item.datum.url); });
    document.dispatchEvent(new CustomEvent("drawn", { detail: name }));
  }

  async function drawAll() {
    for (const place of document.querySelectorAll("[data-chart]")) await draw(place);
    document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
  }

  document.addEventListener("change", (event) => {
    const { for: name, parameter } = event.target.dataset ?? {};
    if (name && parameter) RESEED.views[name].signal(parameter, event.target.value).runAsync();
  });

  // The data of a chart as a table, made when it is asked for.
  document.addEventListener("toggle", (event) => {
    const details = event.target;
    if (!details.matches("details.data") || !details.open || details.querySelector("table")) return;
    const chart = RESEED.charts[details.dataset.for];
    const table = document.createElement("table");
    table.createCaption().textContent = sources[chart.file].file;
    const head = table.createTHead().insertRow();
    for (const name of chart.columns) head.append(Object.assign(document.createElement("th"), { scope: "col", textContent: name }));
    const body = table.createTBody();
    chart.rows.forEach((row, i) => {
      const line = body.insertRow();
      row.forEach((value, j) => {
        const cell = line.insertCell();
        if (typeof value !== "number") cell.textContent = value;
        else cell.append(number(String(value), chart.file, `${i}/${chart.columns[j]}`));
      });
    });
    const region = details.querySelector(".scroll");
    region.tabIndex = 0;
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", details.querySelector("summary").textContent);
    region.append(table);
    rove(table);
  }, true);

  function number(text, file, key) {
    const made = Object.assign(document.createElement("span"), { className: "num", tabIndex: 0, textContent: text });
    made.dataset.file = file;
    made.dataset.key = key;
    return made;
  }

  // One stop of the Tab key a table; the arrow keys move on to its other numbers.
  function rove(table) {
    [...table.querySelectorAll(".num")].forEach((one, i) => { one.tabIndex = i ? -1 : 0; });
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const from = event.target.closest?.(".num"), table = from?.closest("table");
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!table || !(down || right)) return;
    event.preventDefault();
    let to;
    if (right) {
      const all = [...table.querySelectorAll(".num")];
      to = all[all.indexOf(from) + right];
    } else {
      const cell = from.closest("td, th"), rows = [...table.rows];
      for (let i = rows.indexOf(cell.parentNode) + down; rows[i] && !to; i += down) to = rows[i].cells[cell.cellIndex]?.querySelector(".num");
    }
    if (!to) return;
    from.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });

  const box = document.getElementById("origin");
  let shownFor = null;

  function show(one) {
    if (one === shownFor) return;
    hide();
    const known = sources[one.dataset.file];
    const md5 = known.md5 ? `${known.md5}${known.md5.endsWith(".dir") ? ", of its folder" : known.as_locked ? ", these bytes" : " in the lock; the file differs"}` : "in no lock";
    const run = known.revision ? `${known.started.replace("T", " ").replace("+00:00", " UTC")}, revision ${known.revision.slice(0, 12)}` : "unknown";
    const parts = [["file", known.file], ["key", one.dataset.key], ["stage", known.stage ? `${known.stage} (${known.studies.join(", ")})` : "none"], ["run", run], ["md5", md5]];
    const list = document.createElement("dl");
    for (const [term, text] of parts) {
      list.append(Object.assign(document.createElement("dt"), { textContent: term }), Object.assign(document.createElement("dd"), { textContent: text }));
    }
    box.replaceChildren(list);
    box.hidden = false;
    one.setAttribute("aria-describedby", "origin");
    shownFor = one;
    const at = one.getBoundingClientRect(), size = box.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8));
    const below = at.bottom + 6, above = at.top - size.height - 6;
    box.style.left = `${left + scrollX}px`;
    box.style.top = `${(below + size.height > innerHeight && above > 0 ? above : below) + scrollY}px`;
  }

  function hide() {
    box.hidden = true;
    shownFor?.removeAttribute("aria-describedby");
    shownFor = null;
  }

  document.addEventListener("focusin", (event) => { const one = event.target.closest(".num"); if (one) show(one); else hide(); });
  document.addEventListener("mouseover", (event) => {
    const one = event.target.closest(".num");
    if (one) show(one);
    else if (!event.target.closest("#origin") && document.activeElement !== shownFor) hide();
  });

  Object.assign(RESEED, { number, rove, draw });
  document.querySelectorAll("main table").forEach(rove);
  addEventListener("load", drawAll);
  dark.addEventListener("change", drawAll);
})();
