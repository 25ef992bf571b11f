"use strict";
// What every report shares: embedded data, theme, tips. All text goes in as text, never as markup.

/** Read the JSON of an embedded element (page.data_block). */
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Make an element; children are elements or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const Theme = {
  listeners: [],
  isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },
  choose(name) {
    document.documentElement.dataset.theme = name;
    try { localStorage.setItem("chemeleon-theme", name); } catch { /* storage may be barred */ }
    this.changed();
  },
  changed() { for (const listener of this.listeners) listener(); },
  start() {
    try {
      const kept = localStorage.getItem("chemeleon-theme");
      if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
    } catch { /* storage may be barred */ }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.changed());
    document.getElementById("theme").addEventListener("click", () =>
      this.choose(this.isDark() ? "light" : "dark"));
  },
};

/** Shows the data-tip of what is pointed at. */
const Tip = {
  show(text, x, y) {
    const tip = document.getElementById("tip");
    tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
  },
  hide() { document.getElementById("tip").hidden = true; },
  start() {
    document.addEventListener("pointermove", (event) => {
      if (event.target.closest?.("canvas")) return;
      const owner = event.target.closest?.("[data-tip]");
      if (owner) this.show(owner.dataset.tip, event.clientX, event.clientY);
      else this.hide();
    });
    document.addEventListener("scroll", () => this.hide(), { passive: true, capture: true });
  },
};

Theme.start();
Tip.start();
