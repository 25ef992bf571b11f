// A sortable, filterable table of columns; only the rows in sight are in the document.

const ROW = 33, OVERSCAN = 8; // pixels, as in report.css; rows

const ELEMENTS = new Set(("H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se " +
  "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta " +
  "W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr").split(" "));

function formatted(value, column) {
  if (value === null || value === undefined) return "–";
  if (column.kind === "flag") return value ? "yes" : "no";
  if (column.kind === "text") return value;
  return value.toFixed(column.digits).replace("-", "−");
}

/** Chemical formula with its numbers as subscripts. */
function formula(text) {
  return make("span", { class: "formula" }, ...String(text).split(/(\d+\.?\d*)/).filter((part) => part && part !== "1")
    .map((part) => (/^\d/.test(part) ? make("sub", {}, part) : part)));
}

/** Hermann-Mauguin symbol with bars and screw axes. */
function spaceGroup(text) {
  const parts = String(text).split(/(-\d|_\d)/).filter(Boolean);
  return make("span", { class: "hm" }, ...parts.map((part) =>
    part[0] === "-" && part.length === 2 ? make("span", { class: "bar" }, part[1])
      : part[0] === "_" ? make("sub", {}, part[1]) : part));
}

/** Turn words into a test of a row. Throws an Error that says which word is not understood. */
function parseQuery(words, table) {
  const tests = words.trim().split(/\s+/).filter(Boolean).map((word) => {
    const compared = /^([\w-]+)(<=|>=|!=|=|<|>)(.*)$/.exec(word);
    if (compared) {
      const [, name, sign, wanted] = compared;
      const column = table.columnNamed(name);
      if (!column) throw new Error(`no column “${name}”`);
      const values = table.values[column.key];
      if (column.kind === "text") {
        if (sign !== "=" && sign !== "!=") throw new Error(`“${name}” is text: use = or !=`);
        return (i) => (String(values[i] ?? "").toLowerCase() === wanted.toLowerCase()) === (sign === "=");
      }
      const number = { yes: 1, no: 0 }[wanted] ?? Number(wanted);
      if (wanted === "" || Number.isNaN(number)) throw new Error(`“${wanted}” in “${word}” is not a number`);
      const test = { "<": (v) => v < number, ">": (v) => v > number, "<=": (v) => v <= number,
        ">=": (v) => v >= number, "=": (v) => v === number, "!=": (v) => v !== number }[sign];
      return (i) => values[i] !== null && test(values[i]);
    }
    const symbols = word.split("-");
    if (symbols.every((symbol) => ELEMENTS.has(symbol)))
      return (i) => symbols.every((symbol) => table.elements[i].has(symbol));
    const part = word.toLowerCase();
    return (i) => table.texts[i].includes(part);
  });
  return (i) => tests.every((test) => test(i));
}

class CrystalTable {
  constructor(holder, data, onSelect) {
    Object.assign(this, { holder, columns: data.columns, values: data.values, rows: data.rows, onSelect });
    this.count = data.rows.length;
    this.order = Array.from({ length: this.count }, (_, i) => i);
    this.sorted = { key: null, down: false };
    this.selected = -1;
    const texts = ["id", "formula", "reduced_formula", "space_group_symbol", "reason"];
    const of = (key, i) => this.values[key]?.[i] ?? "";
    this.texts = this.order.map((i) => texts.map((key) => of(key, i)).join(" ").toLowerCase());
    this.elements = this.order.map((i) => new Set(of("formula", i).match?.(/[A-Z][a-z]?/g) ?? []));
    this.body = make("tbody");
    this.head = make("thead");
    holder.append(make("table", { class: "crystals", "aria-rowcount": this.count }, this.head, this.body));
    holder.tabIndex = 0;
    holder.addEventListener("scroll", () => this.#rowsInSight(), { passive: true });
    holder.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#rowsInSight()).observe(holder);
    this.#header();
  }

  columnNamed(name) {
    const plain = (text) => text.toLowerCase().replace(/[\s_-]/g, "");
    const short = { atoms: "num_atoms", elements: "num_elements", ehull: "e_above_hull_ev", density: "density_g_cm3",
      volume: "volume_per_atom_a3", energy: "energy_ev_per_atom", rmsd: "relax_rmsd_a" }[plain(name)];
    return this.columns.find((c) => c.key === (short ?? name))
      ?? this.columns.find((c) => plain(c.key) === plain(name) || plain(c.label) === plain(name));
  }
  shown() { return this.columns.filter((column) => column.shown); }
  show(key, on) { this.columns.find((column) => column.key === key).shown = on; this.#header(); this.#rowsInSight(true); }

  filter(test) {
    this.kept = test;
    this.order = [];
    for (let i = 0; i < this.count; i++) if (test(i)) this.order.push(i);
    this.#sortOrder();
    this.holder.scrollTop = 0;
    this.#rowsInSight(true);
  }
  sort(key) {
    const down = this.sorted.key === key ? !this.sorted.down : false;
    this.sorted = this.sorted.key === key && this.sorted.down ? { key: null, down: false } : { key, down };
    if (this.sorted.key === null) this.order.sort((i, j) => i - j);
    this.#sortOrder();
    this.#header();
    this.#rowsInSight(true);
  }
  select(i, reveal = true) {
    this.selected = i;
    const at = this.order.indexOf(i);
    if (reveal && at >= 0) {
      const head = this.head.offsetHeight, { scrollTop, clientHeight } = this.holder, y = at * ROW;
      if (y < scrollTop) this.holder.scrollTop = y;
      else if (y + ROW + head > scrollTop + clientHeight) this.holder.scrollTop = y + ROW + head - clientHeight;
    }
    this.#rowsInSight(true);
    this.onSelect(i);
  }

  #sortOrder() {
    const { key, down } = this.sorted;
    if (key === null) return;
    const values = this.values[key], sign = down ? -1 : 1;
    const text = new Intl.Collator("en", { numeric: true });
    const compare = this.columns.find((column) => column.key === key).kind === "text"
      ? text.compare : (a, b) => a - b;
    this.order.sort((i, j) => { // what is missing comes last, either way
      const a = values[i], b = values[j];
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      return sign * compare(a, b) || i - j;
    });
  }
  #header() {
    const cells = this.shown().map((column) => {
      const mine = this.sorted.key === column.key, arrow = mine ? (this.sorted.down ? " ↓" : " ↑") : "";
      return make("th", { scope: "col", class: column.kind,
        "aria-sort": mine ? (this.sorted.down ? "descending" : "ascending") : "none" },
      make("button", { type: "button", "data-key": column.key, onclick: () => this.sort(column.key),
        "data-tip": `${column.label}${column.unit ? ` (${column.unit})` : ""}\nfilter: ${column.key}` },
      make("span", {}, column.label + arrow), column.unit ? make("small", {}, column.unit) : null));
    });
    this.head.replaceChildren(make("tr", {}, make("th", { scope: "col", class: "number index" }, "#"), ...cells));
    this.drawn = null;
  }
  #rowsInSight(force = false) {
    const tall = this.holder.clientHeight || 600;
    const first = Math.max(0, Math.floor(this.holder.scrollTop / ROW) - OVERSCAN);
    const last = Math.min(this.order.length, Math.ceil((this.holder.scrollTop + tall) / ROW) + OVERSCAN);
    if (!force && this.drawn?.[0] === first && this.drawn?.[1] === last) return;
    this.drawn = [first, last];
    const columns = this.shown(), spacer = (rows) =>
      make("tr", { class: "spacer", "aria-hidden": "true", style: `height:${rows * ROW}px` });
    const lines = this.order.slice(first, last).map((i, k) => this.#line(i, first + k, columns));
    if (!this.order.length)
      lines.push(make("tr", {}, make("td", { colspan: columns.length + 1, class: "empty" }, "No crystal fits.")));
    this.body.replaceChildren(spacer(first), ...lines, spacer(this.order.length - last));
  }
  #line(i, at, columns) {
    const failed = this.values.status?.[i] === "failed";
    const cells = columns.map((column) => this.#cell(this.values[column.key][i], column, i));
    return make("tr", { "data-row": i, "aria-rowindex": at + 1, "aria-selected": i === this.selected,
      class: failed ? "failed" : null, onclick: () => this.select(i, false) },
    make("td", { class: "number index" }, String(this.rows[i])), ...cells);
  }
  #cell(value, column, i) {
    if (column.key === "id" && this.values.status?.[i] === "failed")
      return make("td", { class: "text", "data-tip": this.values.reason?.[i] ?? "failed" }, String(value ?? "–"),
        make("span", { class: "tag" }, "failed"));
    let content = formatted(value, column), kind = column.kind;
    if (value === null) kind += " missing";
    else if (/formula$/.test(column.key)) content = formula(value);
    else if (/space_group_symbol$/.test(column.key)) content = spaceGroup(value);
    else if (column.kind === "flag") { kind += value ? " yes" : " no"; content = value ? "✓" : "✕"; }
    const tip = column.kind === "text" && String(value ?? "").length > 22 ? value : null;
    return make("td", { class: kind, "data-tip": tip }, content);
  }
  #key(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.order.length || event.target.closest("button")) return;
    event.preventDefault();
    const at = this.order.indexOf(this.selected);
    const next = Math.min(this.order.length - 1, Math.max(0, (at < 0 ? 0 : at) + (at < 0 ? 0 : steps[event.key])));
    this.select(this.order[next]);
  }
}
