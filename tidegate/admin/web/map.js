// The service map: who talks to whom in the last minutes, green and red by verdict. Drawn anew only when workloads or edges come or
// go; rates change attributes alone. The same is below it as a table, for who can't or won't read a drawing.

import { follow, get } from "./api.js";
import { empty, h, pill, s, show, table } from "./dom.js";
import { count, rate } from "./format.js";
import { layout, NODE } from "./layout.js";

const EVERY_MS = 2000;
const DENSE = 120; // edges from which on allowed ones step back
const NAME_CHARACTERS = 21;
const TABLE_ROWS_MAX = 200;
const SCALES = [0.35, 0.5, 0.65, 0.8, 1, 1.25];

export function mapView(root, params, app) {
  const search = h("input", { type: "search", placeholder: "Find a workload", "aria-label": "Find a workload", value: params.find ?? "", oninput: dim });
  const refusedOnly = h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: toggleRefused }, "Only refused");
  const smaller = h("button", { type: "button", class: "icon", "aria-label": "Smaller", onclick: () => zoom(-1) }, "−");
  const larger = h("button", { type: "button", class: "icon", "aria-label": "Larger", onclick: () => zoom(1) }, "+");
  const facts = h("span", { class: "facts" });
  const canvas = h("div", { class: "canvas", tabindex: "0", "aria-label": "Service map; the table below says the same" });
  const legend = h("p", { class: "legend", "aria-hidden": "true" },
    h("span", { class: "key allowed" }, "allowed"), h("span", { class: "key refused" }, "refused"),
    h("span", { class: "key mixed" }, "both"), h("span", { class: "key quiet" }, "quiet for ten seconds"));
  const below = h("section", { class: "edges" });
  show(root, h("div", { class: "bar" }, search, h("div", { class: "chips" }, refusedOnly, smaller, larger), facts), canvas, legend, below);

  let found = null;
  let drawn = "";
  let onlyRefused = false;
  let selected = params.workload ?? null;
  let scale = null;
  let size = { width: 1, height: 1 };
  let nodes = new Map();
  let lines = new Map();
  let timer = 0;
  let gone = false;

  async function poll() {
    if (!document.hidden) {
      try {
        found = await get("/v1/map");
        if (!gone) update();
      } catch (error) {
        facts.textContent = error.message;
      }
    }
    if (!gone) timer = setTimeout(poll, EVERY_MS);
  }

  // ---- drawing --------------------------------------------------------------------------------------------------------------

  const refused = (edge) => edge.counts[1] + edge.counts[2];
  const allowed = (edge) => edge.counts[0] + edge.counts[3] + edge.counts[4];
  const tone = (edge) => (refused(edge) ? (allowed(edge) ? "mixed" : "refused") : "allowed");
  const idOf = (edge) => `${edge.source}\n${edge.destination}`;

  function update() {
    const edges = found.edges.filter((edge) => !onlyRefused || refused(edge));
    const named = new Set(edges.flatMap((edge) => [edge.source, edge.destination]));
    const workloads = found.workloads.filter((each) => named.has(each.id) || (!onlyRefused && each.endpoints));
    const now = JSON.stringify([workloads.map((each) => each.id), edges.map(idOf)]);
    if (!workloads.length) {
      drawn = "";
      show(canvas, empty("Nobody talks yet", onlyRefused ? "Nothing was refused in the last two minutes." : "The map shows who talked to whom in the last two minutes."));
      below.replaceChildren();
    } else {
      if (now !== drawn) draw(workloads, edges);
      drawn = now;
      for (const each of workloads) paintNode(each);
      for (const edge of edges) paintEdge(edge);
      showTable(edges);
      dim();
    }
    const total = edges.reduce((sum, edge) => sum + edge.rate, 0);
    const bad = edges.reduce((sum, edge) => sum + edge.refused_rate, 0);
    facts.textContent = `${count(workloads.length)} workloads · ${rate(total)}/s · ${rate(bad)}/s refused${found.left_out ? ` · ${count(found.left_out)} left out` : ""}`;
  }

  function draw(workloads, edges) {
    const { places, width, height } = layout(workloads.map((each) => each.id), edges);
    size = { width, height };
    nodes = new Map();
    lines = new Map();
    const edgeLayer = s("g", { class: "edge-layer" });
    const nodeLayer = s("g", {});
    for (const edge of [...edges].sort((a, b) => refused(a) - refused(b))) { // what was refused lies on top
      const path = curve(places.get(edge.source), places.get(edge.destination));
      const under = s("path", { class: "line base", d: path });
      const over = s("path", { class: "line over", d: path });
      const hit = s("path", { class: "hit", d: path, onclick: () => openEdge(edge) });
      const title = s("title", {});
      const group = s("g", { class: "edge" }, title, under, over, hit);
      lines.set(idOf(edge), { group, under, over, title, edge });
      edgeLayer.append(group);
    }
    for (const { id } of workloads) {
      const place = places.get(id);
      const [space, name] = id.includes("/") ? [id.slice(0, id.indexOf("/")), id.slice(id.indexOf("/") + 1)] : ["", id];
      const short = name.length > NAME_CHARACTERS ? `${name.slice(0, NAME_CHARACTERS - 1)}…` : name;
      const group = s("g", {
        class: "node", transform: `translate(${place.x} ${place.y})`, tabindex: "0", role: "button", "aria-label": id,
        onclick: () => select(id), onkeydown: (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), select(id)),
        onfocus: () => light(id), onblur: () => dim(), onmouseenter: () => light(id), onmouseleave: () => dim(),
      },
      s("title", {}, id),
      s("rect", { width: NODE.width, height: NODE.height, rx: 8 }),
      s("circle", { class: "dot", cx: 14, cy: NODE.height / 2, r: 3.5 }),
      s("text", { x: 26, y: space ? 15 : 21 }, short),
      space && s("text", { class: "space", x: 26, y: 27 }, space));
      nodes.set(id, { group, place });
      nodeLayer.append(group);
    }
    const svg = s("svg", { class: edges.length > DENSE ? "dense" : "", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Workloads" }, edgeLayer, nodeLayer);
    show(canvas, svg);
    applyScale();
  }

  function curve(from, to) {
    const y1 = from.y + NODE.height / 2;
    const y2 = to.y + NODE.height / 2;
    if (from === to) { // talks to itself
      const x = from.x + NODE.width;
      return `M${x} ${y1 - 6}C${x + 34} ${y1 - 22} ${x + 34} ${y1 + 22} ${x} ${y1 + 6}`;
    }
    if (to.column > from.column) {
      const x1 = from.x + NODE.width;
      const bend = Math.max(40, (to.x - x1) / 2);
      return `M${x1} ${y1}C${x1 + bend} ${y1} ${to.x - bend} ${y2} ${to.x} ${y2}`;
    }
    if (to.column === from.column) { // round the right side
      const x = from.x + NODE.width;
      const bend = 30 + Math.min(60, Math.abs(y2 - y1) / 6);
      return `M${x} ${y1}C${x + bend} ${y1} ${x + bend} ${y2} ${x} ${y2}`;
    }
    const x2 = to.x + NODE.width; // back
    return `M${from.x} ${y1}C${from.x - 60} ${y1} ${x2 + 60} ${y2} ${x2} ${y2}`;
  }

  function paintNode(each) {
    const node = nodes.get(each.id);
    node.group.classList.toggle("local", Boolean(each.endpoints));
    node.group.classList.toggle("unready", !each.ready);
    node.group.classList.toggle("selected", each.id === selected);
  }

  function paintEdge(edge) {
    const line = lines.get(idOf(edge));
    line.edge = edge;
    line.group.setAttribute("class", `edge ${tone(edge)}${edge.rate ? "" : " quiet"}`);
    const width = 1.4 + Math.min(5, Math.log10(1 + edge.rate) * 1.8);
    line.under.style.strokeWidth = width;
    line.over.style.strokeWidth = Math.max(1.4, width * 0.6);
    const words = `${edge.source} → ${edge.destination}\n${edge.services.join(", ")}\n${rate(edge.rate)}/s, ${rate(edge.refused_rate)}/s refused`;
    if (line.title.textContent !== words) line.title.textContent = words;
  }

  function showTable(edges) {
    const ordered = [...edges].sort((a, b) => b.refused_rate - a.refused_rate || refused(b) - refused(a) || b.rate - a.rate);
    const rows = ordered.slice(0, TABLE_ROWS_MAX).map((edge) => h("tr", {},
      h("td", {}, h("button", { type: "button", class: "link", onclick: () => openEdge(edge) }, `${edge.source} → ${edge.destination}`)),
      h("td", {}, edge.services.join(", ")),
      h("td", { class: "number" }, `${rate(edge.rate)}/s`),
      h("td", { class: "number" }, count(allowed(edge))),
      h("td", { class: `number${refused(edge) ? " bad" : ""}` }, count(refused(edge)))));
    const focused = below.contains(document.activeElement) ? document.activeElement.textContent : null;
    const left = ordered.length - rows.length;
    show(below, h("h2", {}, "Who talks to whom"), table(["From → to", "Over", "Rate", "Allowed", "Refused"], rows),
      left > 0 && h("p", { class: "facts" }, `and ${count(left)} more`));
    if (focused) [...below.querySelectorAll("button")].find((button) => button.textContent === focused)?.focus();
  }

  // ---- what people do -------------------------------------------------------------------------------------------------------

  function light(id) {
    const near = new Set([id]);
    for (const { edge } of lines.values()) {
      if (edge.source === id) near.add(edge.destination);
      if (edge.destination === id) near.add(edge.source);
    }
    for (const [each, node] of nodes) node.group.classList.toggle("dimmed", !near.has(each));
    for (const { group, edge } of lines.values()) group.classList.toggle("dimmed", edge.source !== id && edge.destination !== id);
  }

  function dim() {
    if (selected && nodes.has(selected)) return light(selected);
    const words = search.value.trim().toLowerCase();
    const fits = (id) => !words || id.toLowerCase().includes(words);
    for (const [id, node] of nodes) node.group.classList.toggle("dimmed", !fits(id));
    for (const { group, edge } of lines.values()) group.classList.toggle("dimmed", !fits(edge.source) && !fits(edge.destination));
    return undefined;
  }

  function select(id) {
    selected = id;
    for (const [each, node] of nodes) node.group.classList.toggle("selected", each === id);
    light(id);
    app.onPanelClosed = () => {
      selected = null;
      for (const node of nodes.values()) node.group.classList.remove("selected");
      dim();
    };
    const of = (side, other) => found.edges.filter((edge) => edge[side] === id).map((edge) => h("tr", {},
      h("td", {}, h("button", { type: "button", class: "link", onclick: () => select(edge[other]) }, edge[other])),
      h("td", {}, edge.services.join(", ")), h("td", { class: "number" }, `${rate(edge.rate)}/s`),
      h("td", { class: `number${refused(edge) ? " bad" : ""}` }, count(refused(edge)))));
    const incoming = of("destination", "source");
    const outgoing = of("source", "destination");
    const state = found.workloads.find((each) => each.id === id)?.endpoints;
    app.openPanel(id,
      h("p", {}, state ? Object.entries(state).map(([name, number]) => [pill(name), ` ${number} `]) : "not on this node"),
      h("p", { class: "actions" }, h("a", { class: "button", href: `#/flows?${new URLSearchParams({ name: id })}` }, "Show flows"),
        h("a", { class: "button", href: `#/flows?${new URLSearchParams({ name: id, verdict: "denied" })}` }, "Show denials")),
      incoming.length ? [h("h3", {}, "Asked by"), table(["Workload", "Over", "Rate", "Refused"], incoming)] : null,
      outgoing.length ? [h("h3", {}, "Asks"), table(["Workload", "Over", "Rate", "Refused"], outgoing)] : null);
  }

  function openEdge(edge) {
    const rows = found.columns.map((name, index) => [name, edge.counts[index]]).filter(([, number]) => number)
      .map(([name, number]) => h("tr", {}, h("td", {}, pill(name)), h("td", { class: "number" }, count(number))));
    const words = { source: edge.source, destination: edge.destination };
    app.openPanel(`${edge.source} → ${edge.destination}`,
      h("p", {}, `${edge.services.join(", ")} · ${rate(edge.rate)}/s in the last ten seconds`),
      table(["Verdict", "In two minutes"], rows),
      h("p", { class: "actions" }, h("a", { class: "button", href: `#/flows?${new URLSearchParams(words)}` }, "Show flows"),
        refused(edge) ? h("a", { class: "button", href: `#/flows?${new URLSearchParams({ ...words, verdict: "denied" })}` }, "Show denials") : null));
  }

  function toggleRefused() {
    onlyRefused = !onlyRefused;
    refusedOnly.setAttribute("aria-pressed", String(onlyRefused));
    if (found) update();
  }

  function zoom(by) {
    const at = SCALES.findIndex((each) => each >= scale - 0.01);
    scale = SCALES[Math.max(0, Math.min(SCALES.length - 1, (at < 0 ? SCALES.length - 1 : at) + by))];
    applyScale();
  }

  function applyScale() {
    const svg = canvas.querySelector("svg");
    if (!svg) return;
    const fit = Math.min(1, (canvas.clientWidth - 4) / size.width);
    scale ??= Math.max(canvas.clientWidth < 720 ? 0.5 : 0.65, fit);
    svg.setAttribute("width", Math.round(size.width * scale));
    svg.setAttribute("height", Math.round(size.height * scale));
  }

  // While somebody follows, every allowed request is recorded, so that the rates are right; hence a stream that says next to nothing.
  let controller = new AbortController();
  const attend = () => {
    controller.abort();
    controller = new AbortController();
    if (document.hidden) return;
    const { signal } = controller;
    follow("/v1/flows", { follow: "1", last: 0, verdict: "error", interval: 5 }, signal, () => {}).catch(() => {});
  };
  document.addEventListener("visibilitychange", attend);
  attend();
  poll();
  return () => {
    gone = true;
    controller.abort();
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", attend);
  };
}
