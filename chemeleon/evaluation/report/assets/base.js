"use strict";
// What every report shares: embedded data, elements, theme. All text goes in as text, never as markup.

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

{ // the theme is the system's until the button is pressed; style sheets follow color-scheme alone
  const { style } = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const changed = () => document.dispatchEvent(new Event("themechange"));
  try { style.colorScheme = localStorage.getItem("chemeleon-theme") ?? ""; } catch { /* storage may be barred */ }
  system.addEventListener("change", changed);
  document.getElementById("theme").addEventListener("click", () => {
    style.colorScheme = (style.colorScheme || (system.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
    try { localStorage.setItem("chemeleon-theme", style.colorScheme); } catch { /* storage may be barred */ }
    changed();
  });
}
