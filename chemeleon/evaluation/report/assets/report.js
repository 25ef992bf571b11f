// The report of `chemeleon evaluate`: its table of crystals, the filters, and the crystal chosen.

(async () => {
  const [data, crystals, settings] = await Promise.all(["table-data", "crystal-data", "viewer-data"].map(unpack));
  const find = (id) => document.getElementById(id);
  const query = find("query"), message = find("query-message"), chips = find("chips");
  const holder = find("list");
  const has3d = (i) => Object.hasOwn(crystals, data.rows[i]);
  const raw = new Viewer(find("view-raw"), settings), relaxed = new Viewer(find("view-relaxed"), settings);
  raw.partner = relaxed;
  relaxed.partner = raw;
  const table = new CrystalTable(holder, data, show);

  // -- filters ---------------------------------------------------------------------------------
  const wanted = new Map(); // chip -> test
  function chip(label, test) {
    const button = make("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => {
      const on = !wanted.has(label);
      if (on) wanted.set(label, test); else wanted.delete(label);
      button.setAttribute("aria-pressed", on);
      filter();
    } }, label);
    chips.append(button);
  }
  for (const column of data.columns.filter((c) => c.kind === "flag" && c.shown))
    chip(column.label, (i) => data.values[column.key][i] === 1);
  for (const key of ["relaxed_e_above_hull_ev", "e_above_hull_ev"]) {
    const values = data.values[key];
    if (!values?.some((value) => value !== null)) continue;
    chip("E above hull ≤ 0.1 eV/atom", (i) => values[i] !== null && values[i] <= 0.1);
    break;
  }
  if (data.values.status?.includes("failed")) chip("Failed", (i) => data.values.status[i] === "failed");
  if (data.rows.some((_, i) => !has3d(i))) chip("With 3-D view", has3d);

  function filter() {
    let test;
    try { test = parseQuery(query.value, table); } catch (error) {
      message.textContent = error.message;
      query.setAttribute("aria-invalid", "true");
      return;
    }
    message.textContent = "";
    query.removeAttribute("aria-invalid");
    const tests = [test, ...wanted.values()];
    table.filter((i) => tests.every((one) => one(i)));
    find("count").textContent = `${table.order.length.toLocaleString("en")} of ${table.count.toLocaleString("en")}`;
  }
  let waiting;
  query.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  document.addEventListener("click", (event) => { // an element of the heat map
    const element = event.target.closest?.("[data-element]")?.dataset.element;
    if (!element) return;
    query.value = element;
    filter();
    find("crystals").scrollIntoView({ behavior: "smooth" });
  });
  for (const column of data.columns) {
    const box = make("input", { type: "checkbox", onchange: () => table.show(column.key, box.checked) });
    box.checked = column.shown;
    find("columns").append(make("label", {}, box, ` ${column.label}`));
  }
  const menu = find("column-menu");
  document.addEventListener("pointerdown", (event) => { if (!menu.contains(event.target)) menu.open = false; });

  // -- the crystal chosen ------------------------------------------------------------------------
  const PAIRED = ["space_group_symbol", "e_above_hull_ev", "energy_ev_per_atom", "hull_state",
    "density_g_cm3", "volume_per_atom_a3", "a", "alpha", "shortest_distance_a"];
  const TOGETHER = { a: ["a", "b", "c"], alpha: ["alpha", "beta", "gamma"] };
  const SINGLE = ["num_atoms", "crystal_system", "group", "timed_out_pairs", "relax_steps", "relax_converged",
    "relax_rmsd_a", "source"];
  const column = (key) => data.columns.find((one) => one.key === key);

  function written(key, i) {
    const value = data.values[key]?.[i] ?? null, of = column(key);
    if (!of || value === null) return make("span", { class: "missing" }, "–");
    if (/space_group_symbol$/.test(key)) {
      const number = data.values[key.replace("_symbol", "")]?.[i];
      return make("span", {}, spaceGroup(value), number ? ` (${number})` : "");
    }
    return formatted(value, of);
  }
  function pill(one, i) {
    const value = data.values[one.key][i];
    const state = value === null ? "unknown" : value ? "yes" : "no";
    const sign = { yes: "✓", no: "✕", unknown: "?" }[state];
    return make("span", { class: `pill ${state}` }, `${sign} ${one.label.replace("Novel: ", "Novel to ")}`);
  }
  function link(record, name, label) {
    return make("button", { type: "button", class: "link", onclick: () => {
      const url = URL.createObjectURL(new Blob([cif(record, name, settings.symbols)], { type: "chemical/x-cif" }));
      make("a", { href: url, download: `${name.replace(/[^\w.-]+/g, "_").slice(0, 80)}.cif` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    } }, label);
  }

  function show(i) {
    const record = crystals[data.rows[i]], pair = data.columns.some((one) => one.key.startsWith("relax"));
    const id = String(data.values.id?.[i] ?? data.rows[i]), reason = data.values.reason?.[i];
    raw.show(record?.raw);
    relaxed.show(record?.relaxed);
    find("stage").classList.toggle("pair", pair);
    find("none-raw").textContent = record?.raw ? "" : data.values.status?.[i] === "failed"
      ? "no crystal" : "no 3-D view in this file";
    find("none-relaxed").textContent = record?.relaxed ? "" : "not relaxed";
    const name = data.values.formula?.[i] ?? null;
    find("detail-title").replaceChildren(name === null ? id : formula(name));
    find("detail-id").textContent = name === null ? "" : id;
    find("detail-reason").textContent = reason ?? "";
    find("pills").replaceChildren(...data.columns.filter((one) => one.kind === "flag" && one.shown).map((one) => pill(one, i)));
    const seen = [...new Set(record?.raw?.z ?? record?.relaxed?.z ?? [])].sort((x, y) => x - y);
    find("legend").replaceChildren(...seen.map((z) => make("span", {},
      make("i", { style: `background:rgb(${settings.colours[z].join(",")})` }), settings.symbols[z])));
    const all = (key, prefix = "") => (TOGETHER[key] ?? [key]).flatMap((one, k) =>
      [k ? ", " : "", written(prefix + one, i)]);
    const lines = PAIRED.filter((key) => column(key)).map((key) => {
      const { unit } = column(key), label = (TOGETHER[key] ?? [key]).map((one) => column(one)?.label ?? one).join(", ");
      return make("tr", {}, make("th", { scope: "row" }, label, unit ? make("small", {}, ` ${unit}`) : null),
        make("td", {}, ...all(key)), pair ? make("td", {}, ...all(key, "relaxed_")) : null);
    });
    for (const key of SINGLE.filter((one) => column(one) && (data.values[one][i] ?? null) !== null)) {
      const { label, unit } = column(key);
      lines.push(make("tr", {}, make("th", { scope: "row" }, label, unit ? make("small", {}, ` ${unit}`) : null),
        make("td", { colspan: pair ? 2 : 1, class: "wide" }, written(key, i))));
    }
    find("facts").replaceChildren(
      pair ? make("thead", {}, make("tr", {}, make("th"), make("th", { scope: "col" }, "Raw"), make("th", { scope: "col" }, "Relaxed"))) : "",
      make("tbody", {}, ...lines));
    const file = data.files?.[i];
    find("links").replaceChildren(...[
      file ? make("a", { href: file }, "Open CIF") : null,
      record?.raw ? link(record.raw, id, "Save CIF") : null,
      record?.relaxed ? link(record.relaxed, `${id}_relaxed`, "Save relaxed CIF") : null,
    ].filter(Boolean));
    find("detail").dataset.row = data.rows[i];
  }

  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => {
    const what = button.dataset.view;
    if (what === "home") raw.reset();
    else if (what === "bonds") {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", on);
      raw.setBonds(on);
    } else raw.along("abc".indexOf(what));
  });

  filter();
  const first = data.rows.findIndex((_, i) => has3d(i));
  if (table.count) table.select(Math.max(first, 0), false);
  document.body.dataset.ready = "yes";
})().catch((error) => {
  document.getElementById("query-message").textContent = `The table cannot be shown: ${error.message}`;
  throw error;
});

/** A crystal of crystal_view.py as CIF text, in P 1. */
function cif(record, name, symbols) {
  const rows = [0, 3, 6].map((i) => record.lattice.slice(i, i + 3).map((v) => v / 1e5));
  const lengths = rows.map((row) => Math.hypot(...row));
  const angle = (i, j) => {
    const dot = rows[i].reduce((sum, v, k) => sum + v * rows[j][k], 0);
    return Math.acos(dot / lengths[i] / lengths[j]) * 180 / Math.PI;
  };
  const angles = [angle(1, 2), angle(0, 2), angle(0, 1)];
  const lines = [`data_${name.replace(/[^\w.-]+/g, "_").slice(0, 70)}`, "_symmetry_space_group_name_H-M 'P 1'", "_symmetry_Int_Tables_number 1",
    ...["a", "b", "c"].map((axis, i) => `_cell_length_${axis} ${lengths[i].toFixed(5)}`),
    ...["alpha", "beta", "gamma"].map((axis, i) => `_cell_angle_${axis} ${angles[i].toFixed(4)}`),
    "loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'",
    "loop_", "_atom_site_label", "_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z"];
  record.numbers.forEach((z, i) => {
    const place = record.frac.slice(3 * i, 3 * i + 3).map((v) => (v / 1e5).toFixed(5));
    lines.push(`${symbols[z]}${i + 1} ${symbols[z]} ${place.join(" ")}`);
  });
  return `${lines.join("\n")}\n`;
}
