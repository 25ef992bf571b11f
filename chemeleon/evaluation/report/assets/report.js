// The report of `chemeleon evaluate`: its table of crystals, the filters, and the crystal chosen.

(async () => {
  const [data, crystals, settings] = await Promise.all(["table-data", "crystal-data", "viewer-data"].map(unpack));
  const find = (id) => document.getElementById(id);
  const query = find("query"), message = find("query-message"), menu = find("column-menu");
  const column = (key) => data.columns.find((one) => one.key === key);
  const has3d = (i) => Object.hasOwn(crystals, data.rows[i]);
  const flags = data.columns.filter((one) => one.kind === "flag" && one.shown);
  const pair = data.columns.some((one) => one.key.startsWith("relax"));
  const viewer = new Viewer([find("view-raw"), find("view-relaxed")], settings);
  const table = new CrystalTable(find("list"), data, settings.symbols.slice(1), show);

  // -- filters ---------------------------------------------------------------------------------
  const wanted = new Map(); // chip -> test
  function chip(label, test) {
    const button = make("button", { type: "button", class: "tool", "aria-pressed": "false", onclick: () => {
      if (!wanted.delete(label)) wanted.set(label, test);
      button.setAttribute("aria-pressed", wanted.has(label));
      filter();
    } }, label);
    find("chips").append(button);
  }
  for (const { key, label } of flags) chip(label, (i) => data.values[key][i] === 1);
  const energies = ["relaxed_e_above_hull_ev", "e_above_hull_ev"].map((key) => data.values[key])
    .find((values) => values?.some((value) => value !== null));
  if (energies) chip("E above hull ≤ 0.1 eV/atom", (i) => energies[i] !== null && energies[i] <= 0.1);
  if (data.values.status?.includes("failed")) chip("Failed", (i) => data.values.status[i] === "failed");
  if (data.rows.some((_, i) => !has3d(i))) chip("With 3-D view", has3d);

  function filter() {
    let problem = "";
    try {
      const tests = [parseQuery(query.value, table), ...wanted.values()];
      table.filter((i) => tests.every((test) => test(i)));
    } catch (error) { problem = error.message; }
    message.textContent = problem;
    query.setCustomValidity(problem);
    find("count").textContent = `${table.order.length.toLocaleString("en")} of ${table.rows.length.toLocaleString("en")}`;
  }
  query.addEventListener("input", filter);
  document.addEventListener("click", (event) => { // an element of the heat map
    const element = event.target.closest?.("[data-element]")?.dataset.element;
    if (!element) return;
    query.value = element;
    filter();
    find("crystals").scrollIntoView({ behavior: "smooth" });
  });
  for (const { key, label, shown } of data.columns) {
    const box = make("input", { type: "checkbox", checked: shown, onchange: () => table.show(key, box.checked) });
    find("columns").append(make("label", {}, box, ` ${label}`));
  }
  document.addEventListener("pointerdown", (event) => { if (!menu.contains(event.target)) menu.open = false; });

  // -- the crystal chosen ------------------------------------------------------------------------
  const FACTS = [["space_group_symbol"], ["space_group"], ["e_above_hull_ev"], ["energy_ev_per_atom"], ["hull_state"],
    ["density_g_cm3"], ["volume_per_atom_a3"], ["a", "b", "c"], ["alpha", "beta", "gamma"], ["shortest_distance_a"],
    ["num_atoms"], ["crystal_system"], ["group"], ["timed_out_pairs"], ["relax_steps"], ["relax_converged"], ["relax_rmsd_a"],
    ["source"], ...flags.filter((one) => !one.key.startsWith("relax")).map((one) => [one.key])].map((keys) => [keys, keys.map((key) => `relaxed_${key}`)].map((names) => names.map(column).filter(Boolean)));

  function fact([raw, relaxed], i) {
    const cell = (columns, span) => make("td", { colspan: span },
      ...columns.flatMap((one, k) => [k ? ", " : "", written(data.values[one.key][i], one)]));
    const unit = raw[0].unit ? make("small", {}, ` ${raw[0].unit}`) : null;
    return make("tr", {}, make("th", { scope: "row" }, raw.map((one) => one.label).join(", "), unit),
      cell(raw, pair && !relaxed.length ? 2 : null), relaxed.length ? cell(relaxed) : null);
  }
  function link(record, name, label) {
    return make("button", { type: "button", class: "tool", onclick: () => {
      const url = URL.createObjectURL(new Blob([record.cif], { type: "chemical/x-cif" }));
      make("a", { href: url, download: `${name.replace(/[^\w.-]+/g, "_").slice(0, 80)}.cif` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    } }, label);
  }

  function show(i) {
    const { raw, relaxed } = crystals[data.rows[i]] ?? {}, value = (key) => data.values[key]?.[i] ?? null;
    const id = String(value("id") ?? data.rows[i]), name = value("formula"), file = data.files?.[i];
    viewer.show([raw, relaxed]);
    find("stage").classList.toggle("pair", pair);
    find("none-raw").textContent = raw ? "" : value("status") === "failed" ? "no crystal" : "no 3-D view in this file";
    find("none-relaxed").textContent = relaxed ? "" : "not relaxed";
    find("detail-title").replaceChildren(name === null ? id : formula(name));
    find("detail-id").textContent = name === null ? "" : id;
    find("detail-reason").textContent = value("reason") ?? "";
    const seen = [...new Set(raw?.z ?? relaxed?.z ?? [])].sort((x, y) => x - y);
    find("legend").replaceChildren(...seen.map((z) => make("span", {},
      make("i", { style: `background:rgb(${settings.colours[z]})` }), settings.symbols[z])));
    const known = FACTS.filter((sides) => sides[0].length && sides.flat().some((one) => value(one.key) !== null));
    const head = pair ? ["", "Raw", "Relaxed"].map((word) => make("th", { scope: "col" }, word)) : [];
    find("facts").replaceChildren(make("tr", {}, ...head), ...known.map((sides) => fact(sides, i)));
    find("links").replaceChildren(...[
      file ? make("a", { class: "tool", href: file }, "Open CIF") : "",
      raw ? link(raw, id, "Save CIF") : "",
      relaxed ? link(relaxed, `${id}_relaxed`, "Save relaxed CIF") : ""]);
  }

  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => {
    const what = button.dataset.view;
    if (what === "home") viewer.reset();
    else if (what === "bonds") {
      viewer.change({ bonds: !viewer.bonds });
      button.setAttribute("aria-pressed", viewer.bonds);
    } else viewer.along("abc".indexOf(what));
  });

  filter();
  if (table.rows.length) table.select(Math.max(data.rows.findIndex((_, i) => has3d(i)), 0), false);
  document.body.dataset.ready = "yes";
})().catch((error) => {
  document.getElementById("query-message").textContent = `The table cannot be shown: ${error.message}`;
  throw error;
});
