// Crystals as balls and sticks, painted from back to front on canvases; needs no GPU.
// Coordinates: x right, y up, z towards the eye; parallel projection. Lengths are in angstrom.

const dot = (p, q) => p[0] * q[0] + p[1] * q[1] + p[2] * q[2];
const cross = (p, q) => [p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]];
const unit = (p) => p.map((x) => x / Math.hypot(...p));
const between = (p, q, share) => p.map((x, i) => x + share * (q[i] - x));
const distance = (p, q) => Math.hypot(...p.map((x, i) => x - q[i]));
const tuples = (list, size) => Array.from({ length: list.length / size }, (_, i) => list.slice(size * i, size * (i + 1)));
const points = (list) => tuples(list, 3).map((p) => p.map((x) => x / 1000));
/** Mix a colour with white, or with black where the share is negative. */
const mixed = (colour, share) => between(colour, share > 0 ? [255, 255, 255] : [0, 0, 0], Math.abs(share));

function stroke(context, from, to, width, colour) {
  Object.assign(context, { lineWidth: width, strokeStyle: `rgb(${colour})` });
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

/** Turn two of the rows (right, up, eye) of a view into each other. */
function spun(turn, i, j, angle) {
  const c = Math.cos(angle), s = Math.sin(angle), rows = [...turn];
  rows[i] = turn[i].map((x, k) => c * x - s * turn[j][k]);
  rows[j] = turn[j].map((x, k) => c * x + s * turn[i][k]);
  return rows;
}

/** What is painted of a record of crystal_view.py: balls, half bonds and pieces of cell edges outside of balls. */
function model(record, { radii, symbols, edge_piece: piece }) {
  const atoms = points(record.at), corners = points(record.corners);
  const balls = atoms.map((at, i) => ({ kind: "ball", from: at, to: at, z: record.z[i], radius: radii[record.z[i]],
    name: symbols[record.z[i]] }));
  const sticks = tuples(record.bonds, 2).flatMap(([i, j]) => [[balls[i], balls[j]], [balls[j], balls[i]]]).map(([one, other]) => {
    const length = distance(one.from, other.from), inside = Math.min(0.9 * one.radius / length, 0.5);
    return { kind: "stick", from: between(one.from, other.from, inside), to: between(one.from, other.from, 0.5), z: one.z,
      name: `${one.name}–${other.name} ${length.toFixed(2)} Å` };
  });
  const edges = tuples(record.edges, 2).flatMap(([i, j]) => {
    const count = Math.ceil(distance(corners[i], corners[j]) / piece);
    const at = (k) => between(corners[i], corners[j], k / count);
    return Array.from({ length: count }, (_, k) => ({ kind: "edge", from: at(k), to: at(k + 1) }));
  }).filter(({ from, to }) => !balls.some((ball) => distance(between(from, to, 0.5), ball.from) < ball.radius));
  const size = Math.max(...balls.map((ball) => Math.hypot(...ball.from) + ball.radius), ...corners.map((p) => Math.hypot(...p)));
  return { balls, corners, size, parts: [...balls, ...sticks, ...edges], cell: points(record.cell) };
}

/** Shows one crystal on each of some canvases, all from the same side; `settings` are those of crystal_view.py. */
class Viewer {
  constructor(canvases, settings) {
    Object.assign(this, { canvases, settings, bonds: true, models: [], painted: [] });
    canvases.forEach((canvas, i) => {
      canvas.addEventListener("pointermove", (event) => {
        const held = canvas.hasPointerCapture(event.pointerId);
        if (held) this.spin(event.movementX * 0.008, event.movementY * 0.008);
        canvas.nextElementSibling.textContent = held ? "" : this.nameAt(i, event.offsetX, event.offsetY);
      });
      canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
      canvas.addEventListener("pointerleave", () => { canvas.nextElementSibling.textContent = ""; });
      canvas.addEventListener("dblclick", () => this.reset());
      canvas.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] }[event.key];
        if (way) this.spin(...way);
        else if (event.key === "0") this.reset();
        else return;
        event.preventDefault();
      });
      canvas.addEventListener("wheel", (event) => {
        if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls
        event.preventDefault();
        this.change({ zoom: Math.min(6, Math.max(0.4, this.zoom * Math.exp(-event.deltaY / 500))) });
      }, { passive: false });
      new ResizeObserver(() => this.change()).observe(canvas);
    });
    document.addEventListener("themechange", () => this.change());
    this.reset();
  }

  show(records) {
    this.models = records.map((record) => record && model(record, this.settings));
    this.change({ zoom: 1 });
  }
  reset() { this.change({ turn: this.settings.view, zoom: 1 }); }
  spin(x, y) { this.change({ turn: spun(spun(this.turn, 2, 0, x), 1, 2, y) }); }
  /** Look along a cell vector (0, 1, 2) of the first crystal, with the next but one upright. */
  along(axis) {
    const { cell } = this.models.find(Boolean) ?? {};
    if (!cell) return;
    const eye = unit(cell[axis]), right = unit(cross(cell[axis === 2 ? 1 : 2], eye));
    this.change({ turn: [right, cross(eye, right), eye] });
  }
  /** Set some of turn, zoom and bonds, and paint all canvases before the next frame. */
  change(what = {}) {
    Object.assign(this, what);
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.painted = this.canvases.map((canvas, i) => this.#paint(canvas, this.models[i]));
    });
  }
  /** What is in front at a place of a canvas: an element, or a bond and its length. */
  nameAt(i, x, y) {
    return this.painted[i].findLast(({ name, a, b, reach }) => {
      const [dx, dy] = [b[0] - a[0], b[1] - a[1]], length = dx * dx + dy * dy;
      const share = length && Math.min(1, Math.max(0, ((x - a[0]) * dx + (y - a[1]) * dy) / length));
      return name && Math.hypot(x - a[0] - share * dx, y - a[1] - share * dy) <= reach;
    })?.name ?? "";
  }

  #paint(canvas, shown) {
    const { turn, settings, zoom, bonds } = this, { shares, highlight, colours } = settings;
    const ratio = devicePixelRatio || 1, wide = canvas.clientWidth, tall = canvas.clientHeight;
    Object.assign(canvas, { width: wide * ratio, height: tall * ratio });
    if (!shown || !wide || !tall) return [];
    const context = canvas.getContext("2d"), style = getComputedStyle(canvas);
    const [paper, ink] = [style.backgroundColor, style.color].map((text) => text.match(/[\d.]+/g).slice(0, 3).map(Number));
    context.scale(ratio, ratio);
    // as large as the first view allows, but so that turning cuts off little
    const reach = (row) => Math.max(...shown.balls.map((ball) => Math.abs(dot(row, ball.from)) + ball.radius),
      ...shown.corners.map((p) => Math.abs(dot(row, p))));
    const [right, up] = settings.view;
    const scale = zoom * Math.min(0.47 * wide / reach(right), 0.47 * tall / reach(up), 0.65 * Math.min(wide, tall) / shown.size);
    const place = (p) => [wide / 2 + scale * dot(turn[0], p), tall / 2 - scale * dot(turn[1], p)];
    const parts = shown.parts.filter((part) => bonds || part.kind !== "stick")
      .map((part) => ({ ...part, depth: dot(turn[2], between(part.from, part.to, 0.5)), a: place(part.from), b: place(part.to) }))
      .sort((p, q) => p.depth - q.depth);
    for (const part of parts) {
      const colour = between(part.z ? colours[part.z] : ink, paper, shares.haze * (0.5 - part.depth / shown.size / 2));
      const line = (width, share) => stroke(context, part.a, part.b, width, mixed(colour, share));
      part.reach = scale * (part.radius ?? settings.bond);
      if (part.kind === "edge") line(1.3, 0);
      else if (part.kind === "stick") {
        line(2 * part.reach + 1.4, shares.outline);
        line(2 * part.reach, 0);
        line(0.7 * part.reach, shares.light / 2);
      } else {
        const [x, y] = part.a, [lightX, lightY] = settings.highlight.map((place) => place * part.reach);
        const shade = context.createRadialGradient(x + lightX, y + lightY, 0, x, y, part.reach);
        [shares.light, 0, shares.rim].forEach((share, k) => shade.addColorStop(k / 2, `rgb(${mixed(colour, share)})`));
        Object.assign(context, { lineWidth: 0.9, fillStyle: shade, strokeStyle: `rgb(${mixed(colour, shares.outline)})` });
        context.beginPath();
        context.arc(x, y, part.reach, 0, 7);
        context.fill();
        context.stroke();
      }
    }
    this.#axes(context, shown.cell, tall);
    return parts;
  }
  #axes(context, cell, tall) {
    const tones = [[217, 83, 79], [58, 157, 74], [74, 134, 216]], foot = [24, tall - 24]; // seen on light and dark
    Object.assign(context, { font: "italic 11px system-ui, sans-serif", textAlign: "center", textBaseline: "middle" });
    cell.forEach((vector, i) => {
      const [dx, dy] = this.turn.map((row) => dot(row, unit(vector))), flat = Math.hypot(dx, dy);
      const away = (length) => [foot[0] + length * dx, foot[1] - length * dy];
      stroke(context, foot, away(15), 1.6, tones[i]);
      context.fillStyle = `rgb(${tones[i]})`;
      if (flat > 0.15) context.fillText("abc"[i], ...away(15 + 8 / flat));
    });
  }
}
