// A small ray caster for crystals: lit balls and sticks with a depth buffer, drawn without a GPU.
// Coordinates of the viewer: x right, y up, z towards the eye; parallel projection.

const AMBIENT = 0.5, DIFFUSE = 0.56, SHINE = 0.38, GLOSS = 36, HAZE = 0.26;
const LIGHT = [-0.42, 0.58, 0.7].map((v) => v / Math.hypot(-0.42, 0.58, 0.7));
const HALF = [LIGHT[0], LIGHT[1], LIGHT[2] + 1];
HALF.forEach((_, i, h) => { h[i] /= Math.hypot(LIGHT[0], LIGHT[1], LIGHT[2] + 1); });
const OUTLINE_DEPTH = 0.45, OUTLINE_SHADE = 0.45, FAR = -1e9;

function times(a, b) { // 3x3 matrices as nine numbers
  return Array.from({ length: 9 }, (_, i) => {
    const r = 3 * Math.floor(i / 3), c = i % 3;
    return a[r] * b[c] + a[r + 1] * b[c + 3] + a[r + 2] * b[c + 6];
  });
}
function turned(m, p) { return [0, 3, 6].map((r) => m[r] * p[0] + m[r + 1] * p[1] + m[r + 2] * p[2]); }
function about(axis, angle) { // rotation about the screen's x (0), y (1) or z (2)
  const c = Math.cos(angle), s = Math.sin(angle);
  return [[1, 0, 0, 0, c, -s, 0, s, c], [c, 0, s, 0, 1, 0, -s, 0, c], [c, -s, 0, s, c, 0, 0, 0, 1]][axis];
}

/** Balls and sticks of one record of crystal_view.py, centred, in angstrom. */
class Model {
  constructor(record, settings) {
    const milli = (list) => Array.from(list, (v) => v / 1000);
    this.z = record.z;
    this.cell = [0, 3, 6].map((i) => milli(record.cell.slice(i, i + 3)));
    const at = milli(record.at);
    const raw = record.z.map((_, i) => at.slice(3 * i, 3 * i + 3));
    const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((k) =>
      [0, 1, 2].map((x) => [0, 1, 2].reduce((sum, v) => sum + (k >> v & 1) * this.cell[v][x], 0)));
    const all = [...raw, ...corners];
    const middle = [0, 1, 2].map((x) => {
      const values = all.map((p) => p[x]);
      return (Math.min(...values) + Math.max(...values)) / 2;
    });
    const shift = (p) => p.map((v, x) => v - middle[x]);
    this.atoms = raw.map(shift);
    this.radii = record.z.map((z) => settings.radii[z]);
    this.bonds = [];
    for (let i = 0; i < record.bonds.length; i += 2) this.bonds.push(record.bonds.slice(i, i + 2));
    const box = corners.map(shift);
    this.edges = [];
    for (let k = 0; k < 8; k++) for (const v of [1, 2, 4]) if (!(k & v)) this.edges.push([box[k], box[k | v]]);
    const diagonal = Math.hypot(...[0, 1, 2].map((x) => this.cell[0][x] + this.cell[1][x] + this.cell[2][x]));
    this.edge = settings.edge * diagonal;
    this.box = box;
    this.size = Math.max(...this.atoms.map((p, i) => Math.hypot(...p) + this.radii[i]),
      ...box.map((p) => Math.hypot(...p) + this.edge));
  }
}

/** Half the width and height of a model in a view, in angstrom. */
function spread(model, turn) {
  const half = [0, 0];
  const widen = (p, radius) => turned(turn, p).slice(0, 2).forEach((v, i) => { half[i] = Math.max(half[i], Math.abs(v) + radius); });
  model.atoms.forEach((p, i) => widen(p, model.radii[i]));
  model.box.forEach((p) => widen(p, model.edge));
  return half;
}

/** Buffers of one picture; what is nearest the eye stays. Lengths are in pixels. */
class Raster {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    const count = width * height;
    this.depth = new Float32Array(count).fill(FAR);
    this.nx = new Float32Array(count);
    this.ny = new Float32Array(count);
    this.what = new Int32Array(count).fill(-1); // index into the list of colours
  }

  ball([cx, cy, cz], radius, what) {
    const { width, height, depth, nx, ny } = this;
    const top = Math.max(0, Math.ceil(cy - radius)), bottom = Math.min(height - 1, Math.floor(cy + radius));
    for (let y = top; y <= bottom; y++) {
      const dy = (y - cy) / radius, reach = radius * Math.sqrt(Math.max(0, 1 - dy * dy));
      const last = Math.min(width - 1, Math.floor(cx + reach));
      for (let x = Math.max(0, Math.ceil(cx - reach)); x <= last; x++) {
        const dx = (x - cx) / radius, h = Math.sqrt(Math.max(0, 1 - dx * dx - dy * dy));
        const z = cz + radius * h, k = y * width + x;
        if (z > depth[k]) { depth[k] = z; nx[k] = dx; ny[k] = -dy; this.what[k] = what; }
      }
    }
  }

  stick(from, to, radius, what) {
    const [dx, dy, dz] = [0, 1, 2].map((i) => to[i] - from[i]);
    const length = Math.hypot(dx, dy, dz), flat = Math.hypot(dx, dy) / length;
    if (!(length > 0) || flat < 1e-3) return; // seen end on
    const ax = dx / length / flat, ay = dy / length / flat, az = dz / length; // along, in the plane
    const { width, height, depth, nx, ny } = this;
    const top = Math.max(0, Math.ceil(Math.min(from[1], to[1]) - radius));
    const bottom = Math.min(height - 1, Math.floor(Math.max(from[1], to[1]) + radius));
    const left = Math.min(from[0], to[0]) - radius, right = Math.max(from[0], to[0]) + radius;
    for (let y = top; y <= bottom; y++) {
      let first = left, last = right;
      if (Math.abs(ay) > 1e-6) { // where this row crosses the two sides
        const centre = from[0] + (y - from[1]) * ax / ay, wide = radius / Math.abs(ay);
        first = Math.max(left, centre - wide);
        last = Math.min(right, centre + wide);
      }
      for (let x = Math.max(0, Math.ceil(first)), end = Math.min(width - 1, Math.floor(last)); x <= end; x++) {
        const px = x - from[0], py = y - from[1];
        const side = (py * ax - px * ay) / radius, squared = 1 - side * side;
        if (squared <= 0) continue;
        const h = Math.sqrt(squared), along = (px * ax + py * ay + radius * h * az) / flat;
        if (along < 0 || along > length) continue;
        const z = from[2] + along * az + radius * h * flat, k = y * width + x;
        if (z > depth[k]) {
          depth[k] = z;
          nx[k] = -side * ay - h * ax * az;
          ny[k] = -(side * ax - h * ay * az);
          this.what[k] = what;
        }
      }
    }
  }

  /** Light everything; colours are [r, g, b] by index, far things fade into the background. */
  shade(colours, background, near, far, unit) {
    const { width, height, depth, what } = this;
    const image = new ImageData(width, height), out = image.data;
    const step = Math.max(1, Math.round(unit * 0.03)), span = Math.max(near - far, 1e-6);
    for (let y = 0, k = 0; y < height; y++) {
      for (let x = 0; x < width; x++, k++) {
        if (what[k] < 0) continue;
        const flat = what[k] === 0; // cell edges are too thin to be round
        const nx = flat ? 0 : this.nx[k], ny = flat ? 0 : this.ny[k], nz = Math.sqrt(Math.max(0, 1 - nx * nx - ny * ny));
        const lit = AMBIENT + DIFFUSE * Math.max(0, nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2]);
        const shine = 255 * SHINE * Math.max(0, nx * HALF[0] + ny * HALF[1] + nz * HALF[2]) ** GLOSS;
        let front = depth[k];
        if (x >= step) front = Math.max(front, depth[k - step]);
        if (x < width - step) front = Math.max(front, depth[k + step]);
        if (y >= step) front = Math.max(front, depth[k - step * width]);
        if (y < height - step) front = Math.max(front, depth[k + step * width]);
        const behind = Math.min(1, Math.max(0, (front - depth[k]) / unit / OUTLINE_DEPTH - 0.5));
        const dim = 1 - OUTLINE_SHADE * behind, haze = HAZE * (near - depth[k]) / span;
        const colour = colours[what[k]];
        for (let i = 0; i < 3; i++) {
          const value = (colour[i] * lit + shine) * dim;
          out[4 * k + i] = value + (background[i] - value) * haze;
        }
        out[4 * k + 3] = 255;
      }
    }
    return image;
  }
}

/** A canvas that shows one crystal and turns it. Views given as `partner` turn together. */
class Viewer {
  constructor(canvas, settings) {
    this.canvas = canvas;
    this.settings = settings;
    this.partner = null;
    this.model = null;
    this.bonds = true;
    this.zoom = 1;
    this.speed = 1; // pixels per pixel while moving; falls on slow machines
    this.home = settings.view.flat();
    this.turn = this.home;
    this.dark = () => Theme.isDark();
    canvas.tabIndex = 0;
    canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    canvas.addEventListener("pointermove", (event) => { if (!event.buttons) this.#name(event); });
    canvas.addEventListener("pointerleave", () => Tip.hide());
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      this.#each((view) => { view.zoom = Math.min(6, Math.max(0.4, view.zoom * Math.exp(-event.deltaY / 500))); });
    }, { passive: false });
    Theme.listeners.push(() => this.draw());
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(record) {
    this.model = record ? new Model(record, this.settings) : null;
    this.zoom = 1;
    this.draw();
  }
  reset() { this.#each((view) => { view.turn = view.home; view.zoom = 1; }); }
  spin(axis, angle) { this.#each((view) => { view.turn = times(about(axis, angle), view.turn); }); }

  /** Look along a cell vector (0, 1, 2), with the next but one upright. */
  along(axis) {
    this.#each((view) => {
      if (!view.model) return;
      const unit = (v) => { const n = Math.hypot(...v); return v.map((x) => x / n); };
      const cross = (p, q) => [p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]];
      const eye = unit(view.model.cell[axis]);
      const right = unit(cross(view.model.cell[axis === 2 ? 1 : 2], eye));
      view.turn = [...right, ...cross(eye, right), ...eye];
    });
  }
  setBonds(on) { this.#each((view) => { view.bonds = on; }); }

  #each(change) {
    for (const view of this.partner ? [this, this.partner] : [this]) { change(view); view.draw(true); }
  }
  #drag(event) {
    this.canvas.setPointerCapture(event.pointerId);
    Tip.hide();
    let { clientX: x, clientY: y } = event;
    const move = (next) => {
      const step = 0.008, dx = (next.clientX - x) * step, dy = (next.clientY - y) * step;
      ({ clientX: x, clientY: y } = next);
      this.#each((view) => { view.turn = times(times(about(0, dy), about(1, dx)), view.turn); });
    };
    const end = () => { this.canvas.removeEventListener("pointermove", move); };
    this.canvas.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, end, { once: true });
  }
  #key(event) {
    const keys = { ArrowLeft: [1, -1], ArrowRight: [1, 1], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (keys[event.key]) this.spin(keys[event.key][0], keys[event.key][1] * 0.12);
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }

  /** Tell what is under the pointer: an element, or a bond's length. */
  #name(event) {
    const { raster, model } = this;
    const box = this.canvas.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left) / box.width * (raster?.width ?? 0));
    const y = Math.floor((event.clientY - box.top) / box.height * (raster?.height ?? 0));
    const what = model && raster ? raster.what[y * raster.width + x] ?? -1 : -1;
    const count = model?.atoms.length ?? 0, symbol = (i) => this.settings.symbols[model.z[i]];
    if (what < 1) { Tip.hide(); return; }
    let text = symbol(what - 1);
    if (what > count) {
      const [i, j] = model.bonds[Math.floor((what - 1 - count) / 2)];
      const length = Math.hypot(...[0, 1, 2].map((k) => model.atoms[i][k] - model.atoms[j][k]));
      text = `${symbol(i)}–${symbol(j)} ${length.toFixed(2)} Å`;
    }
    Tip.show(text, event.clientX, event.clientY);
  }

  /** Draw at the next frame: coarse while it moves, fine when at rest. */
  draw(moving = false) {
    clearTimeout(this.rest);
    if (moving) this.rest = setTimeout(() => this.draw(), 140);
    if (this.pending) { this.moving = this.moving && moving; return; }
    this.moving = moving;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.#render(); });
  }
  #render() {
    const { canvas, model, settings } = this, ratio = devicePixelRatio || 1;
    const wide = canvas.clientWidth, tall = canvas.clientHeight, context = canvas.getContext("2d");
    if (!wide || !tall) return;
    canvas.width = Math.round(wide * ratio);
    canvas.height = Math.round(tall * ratio);
    if (!model) { this.raster = null; return; }
    const started = performance.now();
    const scale = this.moving ? this.speed : Math.max(2, ratio * 1.5);
    const width = Math.round(wide * scale), height = Math.round(tall * scale);
    const raster = this.raster = new Raster(width, height);
    // as large as the first view allows, but so that turning cuts off little
    const [right, up] = spread(model, this.home);
    const fit = Math.min(0.94 * width / 2 / right, 0.94 * height / 2 / up, 0.65 * Math.min(width, height) / model.size);
    const unit = this.zoom * fit; // pixels per angstrom
    const place = (p) => {
      const [x, y, z] = turned(this.turn, p);
      return [width / 2 + x * unit, height / 2 - y * unit, z * unit];
    };
    const atoms = model.atoms.map(place), tone = (i) => settings.colours[model.z[i]];
    const colours = [this.dark() ? [150, 158, 172] : [97, 97, 97], ...model.z.map((_, i) => tone(i))];
    for (const [from, to] of model.edges) raster.stick(place(from), place(to), Math.max(0.65 * scale, model.edge * unit), 0);
    if (this.bonds) for (const [i, j] of model.bonds) {
      const middle = atoms[i].map((v, k) => (v + atoms[j][k]) / 2);
      raster.stick(atoms[i], middle, settings.bond * unit, colours.push(tone(i)) - 1);
      raster.stick(middle, atoms[j], settings.bond * unit, colours.push(tone(j)) - 1);
    }
    atoms.forEach((p, i) => raster.ball(p, model.radii[i] * unit, i + 1));
    const background = this.dark() ? [23, 27, 34] : [255, 255, 255];
    const reach = model.size * unit, sheet = new OffscreenCanvas(width, height);
    sheet.getContext("2d").putImageData(raster.shade(colours, background, reach, -reach, unit), 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(sheet, 0, 0, canvas.width, canvas.height);
    this.#axes(context, ratio);
    if (this.moving) { // keep up with the hand
      const took = performance.now() - started;
      this.speed = Math.min(1, Math.max(0.4, this.speed * (took > 40 ? 0.8 : took < 15 ? 1.15 : 1)));
    }
  }
  #axes(context, ratio) {
    const dark = this.dark(), length = 15 * ratio, x = 24 * ratio, y = this.canvas.height - 24 * ratio;
    const tones = dark ? ["#ff7b72", "#56d364", "#79b8ff"] : ["#c62828", "#2e7d32", "#1565c0"];
    context.font = `italic ${11 * ratio}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 1.6 * ratio;
    this.model.cell.forEach((vector, i) => {
      const [dx, dy] = turned(this.turn, vector.map((v) => v / Math.hypot(...vector)));
      context.strokeStyle = context.fillStyle = tones[i];
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(x + dx * length, y - dy * length);
      context.stroke();
      const flat = Math.hypot(dx, dy), out = length + 8 * ratio / flat;
      if (flat > 0.15) context.fillText("abc"[i], x + dx * out, y - dy * out);
    });
  }
}
