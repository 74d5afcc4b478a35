// Building DOM from values. Text from the network only ever becomes a text node or an attribute: no HTML is parsed.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
  return node;
}

/** An HTML element. */
export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);

/** An SVG element. */
export const s = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

/** Replace what is in `node`. */
export function show(node, ...children) {
  node.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
}

/** A coloured word for a state or a verdict. */
export const pill = (word, title) => h("span", { class: `pill ${word}`, title }, word);

const NUMBERS = new Set(["Rate", "Allowed", "Refused", "Endpoints", "Revision", "Policies", "Identity", "Slot", "In two minutes"]);

/** A table; `rows` are `tr` elements. */
export function table(heads, rows, options = {}) {
  const head = h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col", class: NUMBERS.has(text) && "number" }, text))));
  return h("div", { class: "scroll-x" }, h("table", { class: options.class }, head, h("tbody", {}, rows)));
}

/** What stands where there is nothing yet. */
export const empty = (title, text) => h("div", { class: "empty" }, h("strong", {}, title), h("p", {}, text));

/** Say something to a screen reader. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}
