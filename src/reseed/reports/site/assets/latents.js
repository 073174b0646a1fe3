// The panel of latents: filters, two charts and a list of what they leave, and one latent in full.
"use strict";
(() => {
  const panel = document.getElementById("explorer"), form = document.getElementById("filters");
  const list = document.querySelector("#list tbody"), more = document.getElementById("more");
  const table = RESEED.latents, PAGE = 50;
  const source = Number(panel.dataset.source), ofExamples = Number(panel.dataset.examplesSource);
  // spread in height by a fixed rule, so that the picture is the same every time
  const jitter = (i) => (((i * 2654435761) % 1000) / 1000 - 0.5) * 0.06;
  const all = table.seed.map((seed, place) => {
    const one = Object.fromEntries(Object.keys(table).map((name) => [name, table[name][place]]));
    one.reappearance ??= null;
    return { ...one, place, log_count: Math.log10(1 + one.firing_count), jittered: one.reappearance === null ? null : one.reappearance + jitter(place) };
  });
  let found = [], listed = PAGE, chosen = -1;

  const three = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
  const optional = panel.dataset.more.split(" ").filter(Boolean);
  const titles = { c_dec: "c_dec", p_correct: "P(correct)" };
  const key = (one, name) => `arm ${one.arm}, seed ${one.seed}, latent ${one.latent}: ${name}`;
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  function filter() {
    const wanted = Object.fromEntries(new FormData(form));
    const inside = (value, from, to) => (from === "" || (value !== null && value >= Number(from))) && (to === "" || (value !== null && value <= Number(to)));
    found = all.filter((one) =>
      one.arm === wanted.arm &&
      (wanted.seed === "" || one.seed === Number(wanted.seed)) &&
      (wanted.latent.trim() === "" || one.latent === Number(wanted.latent)) &&
      (wanted.alive === "" || one.alive === Number(wanted.alive)) &&
      inside(one.reappearance, wanted.reappearance_from, wanted.reappearance_to) &&
      inside(one.firing_count, wanted.count_from, wanted.count_to));
    found.sort((a, b) => (b.reappearance ?? -1) - (a.reappearance ?? -1) || (b.partner_cosine ?? -2) - (a.partner_cosine ?? -2) || a.place - b.place);
    listed = PAGE;
    RESEED.shown = found;
    const total = all.filter((one) => one.arm === wanted.arm).length;
    document.getElementById("found").textContent = `${found.length} of ${total} latents of the arm ${wanted.arm}`;
    // Vega warns of a chart without data
    document.getElementById("pictures").hidden = !found.length;
    if (found.length) for (const name of ["firing", "latents"]) RESEED.views[name]?.data("rows", found).runAsync();
    fill();
  }

  function fill() {
    list.replaceChildren(...found.slice(0, listed).map((one) => {
      const button = element("button", { type: "button", textContent: `${one.seed} / ${one.latent}` });
      button.setAttribute("aria-label", `${one.seed} / ${one.latent}: seed and latent`);
      button.addEventListener("click", () => choose(one, true));
      const row = element("tr", { className: one.place === chosen ? "chosen" : "" }, element("th", { scope: "row" }, button));
      for (const [name, text] of [["firing_count", String(one.firing_count)], ["reappearance", three(one.reappearance)], ["partner_cosine", three(one.partner_cosine)], ...optional.map((name) => [name, three(one[name])])]) {
        row.append(element("td", {}, text === "–" ? text : RESEED.number(text, source, key(one, name))));
      }
      return row;
    }));
    RESEED.rove(list.parentNode);
    more.hidden = listed >= found.length;
  }

  // A script tag, because a page opened from disk may not fetch.
  const loads = {};
  const examplesOf = (seed) => (loads[seed] ??= new Promise((resolve, reject) => {
    document.head.append(element("script", { src: `${panel.dataset.root}${panel.dataset.examples}${seed}.js`, onload: () => resolve(RESEED.examples[seed]), onerror: reject }));
  }));

  function figures(one) {
    const names = Object.keys(table).filter((name) => !["arm", "seed", "latent"].includes(name) && one[name] !== null);
    const rows = names.map((name) => {
      const text = name === "alive" ? (one.alive ? "yes" : "no") : name === "firing_count" ? String(one[name]) : three(one[name]);
      return element("tr", {}, element("th", { scope: "row", textContent: titles[name] ?? name.replaceAll("_", " ") }), element("td", {}, RESEED.number(text, source, key(one, name))));
    });
    const trainingRows = Number(panel.dataset.trainingRows);
    if (trainingRows) {
      const frequency = RESEED.number((one.firing_count / trainingRows).toPrecision(3), source, `${key(one, "firing_count")} / ${trainingRows} training rows`);
      rows.splice(1, 0, element("tr", {}, element("th", { scope: "row", textContent: "firing frequency" }), element("td", {}, frequency)));
    }
    return element("div", { className: "scroll" }, element("table", {}, element("caption", { textContent: "Its figures" }), element("tbody", {}, ...rows)));
  }

  function examples(one, { rows }) {
    const lines = (rows.of[one.latent] ?? []).map(([row, activation]) => {
      const [before, token, after] = rows.text[row];
      const value = RESEED.number(activation.toPrecision(3), ofExamples, `seed ${one.seed}, latent ${one.latent}, row ${row}: activation`);
      return element("li", { className: "example" }, value, `  row ${row}: `, before, element("mark", { textContent: token }), after);
    });
    if (!lines.length) return [element("p", { textContent: "It fires on none of the held-out rows that were read." })];
    return [element("h4", { textContent: "Held-out rows on which it is most active" }), element("ol", { className: "plain" }, ...lines)];
  }

  function partners(one, { partners }) {
    const found = partners[one.latent] ?? [];
    if (!found.length) return [];
    const rows = found.map(([seed, latent, decoder, encoder]) => {
      const button = element("button", { type: "button", textContent: `${seed} / ${latent}` });
      button.setAttribute("aria-label", `${seed} / ${latent}: partner in seed ${seed}`);
      button.addEventListener("click", () => choose(all.find((other) => other.arm === one.arm && other.seed === seed && other.latent === latent), true));
      const at = `seed ${one.seed}, latent ${one.latent}, other seed ${seed}`;
      return element("tr", {}, element("th", { scope: "row" }, button), ...[["decoder_cosine", decoder], ["encoder_cosine", encoder]].map(([name, value]) => element("td", {}, RESEED.number(three(value), ofExamples, `${at}: ${name}`))));
    });
    const head = element("tr", {}, ...["seed / latent", "decoder cosine", "encoder cosine"].map((textContent) => element("th", { scope: "col", textContent })));
    return [element("div", { className: "scroll" }, element("table", {}, element("caption", { textContent: "One-to-one partners in the other seeds" }), element("thead", {}, head), element("tbody", {}, ...rows)))];
  }

  async function choose(one, move) {
    chosen = one.place;
    fill();
    RESEED.views.latents?.signal("chosen", chosen).runAsync();
    document.getElementById("latent-title").textContent = `Seed ${one.seed}, latent ${one.latent}, arm ${one.arm}`;
    const body = document.getElementById("latent-body");
    body.replaceChildren(figures(one));
    if (panel.dataset.examples && one.arm === "trained" && one.alive) {
      const known = await examplesOf(one.seed);
      if (chosen !== one.place) return;
      body.append(...partners(one, known), ...examples(one, known));
    }
    body.querySelectorAll("table").forEach(RESEED.rove);
    if (move) document.getElementById("latent").focus();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  more.addEventListener("click", () => { listed += PAGE; fill(); });
  document.addEventListener("drawn", ({ detail }) => {
    if (detail !== "latents") return;
    RESEED.views.latents.addEventListener("click", (_, item) => { if (item?.datum?.place !== undefined) choose(all[item.datum.place], false); });
    if (chosen >= 0) RESEED.views.latents.signal("chosen", chosen).runAsync();
  });
  filter();
})();
