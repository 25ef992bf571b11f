// A sortable, filterable table of columns; only the rows in sight are in the document.

const ROW = 33, OVERSCAN = 8; // pixels, as in report.css; rows

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

/** A value as people write it: text or an element. */
function written(value, column) {
  if (value === null || value === undefined) return "–";
  if (/formula$/.test(column.key)) return formula(value);
  if (/space_group_symbol$/.test(column.key)) return spaceGroup(value);
  if (column.kind === "flag") return value ? "✓" : "✕";
  return column.kind === "text" ? value : value.toFixed(column.digits).replace("-", "−");
}

const SHORT = { volume: "volume_per_atom_a3", ehull: "e_above_hull_ev", rmsd: "relax_rmsd_a" }; // names in filters
const SIGNS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b };

/** Turn words into a test of a row. Throws an Error that says which word is not understood. */
function parseQuery(words, table) {
  const tests = words.trim().split(/\s+/).filter(Boolean).map((word) => {
    const compared = /^([\w-]+)(<=|>=|!=|=|<|>)(.*)$/.exec(word);
    if (compared) {
      const [, name, sign, wanted] = compared, column = table.columnNamed(name);
      if (!column) throw new Error(`no column “${name}”`);
      const values = table.values[column.key], test = SIGNS[sign];
      if (column.kind === "text") {
        if (sign !== "=" && sign !== "!=") throw new Error(`“${name}” is text: use = or !=`);
        return (i) => test(String(values[i] ?? "").toLowerCase(), wanted.toLowerCase());
      }
      const number = { yes: 1, no: 0 }[wanted] ?? Number(wanted);
      if (wanted === "" || Number.isNaN(number)) throw new Error(`“${wanted}” in “${word}” is not a number`);
      return (i) => values[i] !== null && test(values[i], number);
    }
    const symbols = word.split("-");
    if (symbols.every((symbol) => table.symbols.has(symbol)))
      return (i) => symbols.every((symbol) => table.elements[i].has(symbol));
    return (i) => table.texts[i].includes(word.toLowerCase());
  });
  return (i) => tests.every((test) => test(i));
}

class CrystalTable {
  /** `data` is that of columns.py, `symbols` those of the elements; `onSelect` is told the row that is chosen. */
  constructor(holder, data, symbols, onSelect) {
    Object.assign(this, { holder, columns: data.columns, values: data.values, rows: data.rows, onSelect });
    Object.assign(this, { symbols: new Set(symbols), sorted: {}, selected: -1, kept: () => true });
    const of = (key, i) => this.values[key]?.[i] ?? "";
    const texts = ["id", "formula", "reduced_formula", "space_group_symbol", "reason"];
    this.texts = this.rows.map((_, i) => texts.map((key) => of(key, i)).join(" ").toLowerCase());
    this.elements = this.rows.map((_, i) => new Set(of("formula", i).match?.(/[A-Z][a-z]?/g) ?? []));
    this.head = make("thead");
    this.body = make("tbody");
    holder.append(make("table", { class: "crystals", "aria-rowcount": this.rows.length }, this.head, this.body));
    holder.addEventListener("scroll", () => this.#rowsInSight(), { passive: true });
    holder.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#rowsInSight()).observe(holder);
    this.#arrange();
  }

  columnNamed(name) {
    const plain = (text) => text.toLowerCase().replace(/[\s_-]/g, "");
    return this.columns.find((c) => c.key === (SHORT[plain(name)] ?? name))
      ?? this.columns.find((c) => [c.key, c.label].some((text) => plain(text) === plain(name)));
  }
  show(key, on) { this.columns.find((column) => column.key === key).shown = on; this.#arrange(); }
  filter(test) { this.kept = test; this.holder.scrollTop = 0; this.#arrange(); }
  sort(key) {
    this.sorted = this.sorted.key !== key ? { key } : this.sorted.down ? {} : { key, down: true };
    this.#arrange();
  }
  select(i, reveal = true) {
    this.selected = i;
    const top = this.order.indexOf(i) * ROW, { holder } = this;
    const least = top + ROW + this.head.offsetHeight - holder.clientHeight; // the row is at the lower end
    if (reveal && top >= 0) holder.scrollTop = Math.min(top, Math.max(least, holder.scrollTop));
    this.#rowsInSight();
    this.onSelect(i);
  }

  /** Find the rows that are kept, in order, and draw the table anew. */
  #arrange() {
    this.order = this.rows.map((_, i) => i).filter((i) => this.kept(i));
    const { key, down } = this.sorted, values = this.values[key], text = new Intl.Collator("en", { numeric: true });
    const compare = typeof values?.find((value) => value !== null) === "string" ? text.compare : (a, b) => a - b;
    if (key) this.order.sort((i, j) => { // what is missing comes last, either way
      const a = values[i], b = values[j];
      return (a === null) - (b === null) || (a !== null && (down ? compare(b, a) : compare(a, b))) || i - j;
    });
    this.shown = this.columns.filter((column) => column.shown);
    const heads = this.shown.map((column) => {
      const unit = column.unit ? ` (${column.unit})` : "", arrow = column.key !== key ? "" : down ? " ↓" : " ↑";
      return make("th", { scope: "col", class: column.kind,
        "aria-sort": column.key !== key ? "none" : down ? "descending" : "ascending" },
      make("button", { type: "button", "data-key": column.key, onclick: () => this.sort(column.key),
        title: `${column.label}${unit}\nfilter: ${column.key}` },
      make("span", {}, column.label + arrow), column.unit ? make("small", {}, column.unit) : null));
    });
    this.head.replaceChildren(make("tr", {}, make("th", { scope: "col", class: "number index" }, "#"), ...heads));
    this.#rowsInSight();
  }
  #rowsInSight() {
    const tall = this.holder.clientHeight || 600, count = this.order.length;
    const first = Math.max(0, Math.floor(this.holder.scrollTop / ROW) - OVERSCAN);
    const last = Math.min(count, Math.ceil((this.holder.scrollTop + tall) / ROW) + OVERSCAN);
    const spacer = (rows) => make("tr", { class: "spacer", "aria-hidden": "true", style: `height:${rows * ROW}px` });
    const lines = this.order.slice(first, last).map((i, k) => this.#line(i, first + k));
    if (!count) lines.push(make("tr", {}, make("td", { colspan: this.shown.length + 1, class: "empty" }, "No crystal fits.")));
    this.body.replaceChildren(spacer(first), ...lines, spacer(count - last));
  }
  #line(i, at) {
    const failed = this.values.status?.[i] === "failed";
    const cells = this.shown.map((column) => {
      const value = this.values[column.key][i], kind = column.kind === "flag" && value ? "flag yes" : column.kind;
      const tag = failed && column.key === "id" ? make("span", { class: "tag" }, "failed") : null;
      const title = tag ? this.values.reason?.[i] : column.kind === "text" ? value : null; // long texts are cut off
      return make("td", { class: value === null ? `${column.kind} missing` : kind, title }, written(value, column), tag);
    });
    return make("tr", { "data-row": i, "aria-rowindex": at + 1, "aria-selected": i === this.selected,
      class: failed ? "failed" : null, onclick: () => this.select(i, false) },
    make("td", { class: "number index" }, String(this.rows[i])), ...cells);
  }
  #key(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.order.length || event.target.closest("button")) return;
    event.preventDefault();
    const at = this.order.indexOf(this.selected), next = at < 0 ? 0 : at + steps[event.key];
    this.select(this.order[Math.min(this.order.length - 1, Math.max(0, next))]);
  }
}
