// The flow table: what the node records, as it comes. At most RECORDS_MAX are kept and only the rows on the screen are in the DOM,
// so a thousand a second cost as much as ten. While somebody scrolls or has paused, what comes waits.

import { follow, get } from "./api.js";
import { announce, empty, h, pill, show } from "./dom.js";
import { clock, count, duration, end, message, port, rate, verdict, why, workload } from "./format.js";
import { parse, write } from "./filter.js";

const RECORDS_MAX = 5000;
const PAST = 500;
const INTERVAL_S = 0.25;
const RETRY_MS = 2000;
const NARROW = 640; // as in style.css
const QUICK = [["All", {}], ["Denied", { verdict: "denied" }], ["Dropped", { verdict: "dropped" }], ["Audited", { verdict: "audited" }],
  ["Errors", { verdict: "error" }]];

export function flowsView(root, params, app) {
  const field = h("input", {
    type: "search", id: "filter", value: write(params), spellcheck: "false", autocomplete: "off", autocapitalize: "off",
    placeholder: "verdict:denied namespace:shop status:5xx path:^/v1", "aria-label": "Filter", "aria-describedby": "filter-problem",
  });
  const problem = h("p", { id: "filter-problem", class: "problem", role: "alert" });
  const chips = QUICK.map(([name, words]) => h("button", { type: "button", class: "chip", onclick: () => quick(words) }, name));
  const pause = h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => setPaused(!paused) }, "Pause");
  const facts = h("span", { class: "facts" });
  const fresh = h("button", { type: "button", class: "fresh", hidden: true, onclick: toTop });
  const rows = h("div", { class: "rows" });
  const list = h("div", { class: "flow-list", tabindex: "0", role: "listbox", "aria-label": "Flows, newest first" }, rows);
  const none = h("div", { class: "none" });
  const heads = h("div", { class: "flow-head", "aria-hidden": "true" },
    ["Time", "Verdict", "From", "To", "What", "Why"].map((text) => h("span", {}, text)));
  show(root, h("form", { class: "bar", onsubmit: apply }, field, h("div", { class: "chips" }, chips, pause), facts), problem,
    h("section", { class: "flow-table" }, heads, list, none, fresh));

  let records = []; // newest last
  let waiting = [];
  let paused = false;
  let active = null; // the record that the keyboard is at
  let lost = 0;
  let seen = [];
  let controller = new AbortController();
  let gone = false;
  const pool = [];

  // ---- what comes -----------------------------------------------------------------------------------------------------------

  async function run() {
    controller.abort();
    controller = new AbortController();
    const { signal } = controller;
    records = [];
    waiting = [];
    lost = 0;
    problem.textContent = "";
    let wanted;
    try {
      wanted = parse(field.value);
    } catch (error) {
      problem.textContent = error.message;
      draw();
      return;
    }
    mark(wanted);
    draw();
    while (!signal.aborted) {
      try {
        await follow("/v1/flows", { ...wanted, follow: "1", last: PAST, interval: INTERVAL_S }, signal, take, () => {
          records = [];
          waiting = [];
          problem.textContent = "";
        });
      } catch (error) {
        if (signal.aborted) return;
        problem.textContent = error.status === 400 ? error.message : `not connected: ${error.message}`;
        if (error.status === 400 || error.status === 401) return;
      }
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }

  function take(lines) {
    const now = performance.now();
    for (const line of lines) {
      if (line.flow) waiting.push(line.flow);
      else lost += Number(line.lost_events?.num_events_lost ?? 0);
    }
    seen.push([now, lines.length]);
    while (seen.length && seen[0][0] < now - 5000) seen.shift();
    if (waiting.length > RECORDS_MAX) waiting = waiting.slice(-RECORDS_MAX);
    if (!paused && list.scrollTop < 4) settle();
    else showFresh();
  }

  function settle() {
    if (waiting.length) {
      records = records.concat(waiting).slice(-RECORDS_MAX);
      waiting = [];
    }
    showFresh();
    draw();
  }

  function showFresh() {
    fresh.hidden = !waiting.length;
    fresh.textContent = `↑ ${count(waiting.length)} new`;
  }

  // ---- what is shown --------------------------------------------------------------------------------------------------------

  let drawing = 0;
  function draw() {
    if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; paint(); });
  }

  function paint() {
    if (gone) return;
    const height = rowHeight();
    rows.style.height = `${records.length * height}px`;
    const first = Math.max(0, Math.floor(list.scrollTop / height) - 3);
    const shown = Math.min(records.length - first, Math.ceil(list.clientHeight / height) + 6);
    while (pool.length < shown) pool.push(newRow());
    pool.forEach((row, index) => {
      row.node.hidden = index >= shown;
      if (index < shown) fillRow(row, first + index, height);
    });
    const perSecond = seen.reduce((sum, [, number]) => sum + number, 0) / 5;
    facts.textContent = `${count(records.length)} shown · ${rate(perSecond)}/s${lost ? ` · ${count(lost)} lost` : ""}`;
    if (records.length) none.replaceChildren();
    else if (!none.childNodes.length) show(none, empty("Nothing yet", "Denials appear as they happen; allowed requests while this page is open."));
  }

  const rowHeight = () => (list.parentElement.clientWidth < NARROW ? 58 : 30);

  function newRow() {
    const cells = Object.fromEntries(["time", "verdict", "from", "to", "what", "why"].map((name) => [name, h("span", { class: name })]));
    const node = h("div", { class: "row", role: "option", onclick: () => open(row.flow) }, Object.values(cells));
    const row = { node, cells, flow: null };
    rows.append(node);
    return row;
  }

  function fillRow(row, index, height) {
    const flow = records[records.length - 1 - index];
    row.node.style.transform = `translateY(${index * height}px)`;
    row.node.classList.toggle("active", flow === active);
    row.node.setAttribute("aria-selected", String(flow === active));
    if (row.flow === flow) return;
    row.flow = flow;
    row.node.id = `flow-${flow.uuid}`;
    const { cells } = row;
    cells.time.textContent = clock(flow.time);
    show(cells.verdict, pill(verdict(flow)));
    const number = port(flow, "destination");
    showEnd(cells.from, flow, "source", "");
    showEnd(cells.to, flow, "destination", number ? `:${number}` : "");
    const code = flow.l7?.http?.code;
    const words = message(flow);
    if (code && words.endsWith(` ${code}`)) show(cells.what, words.slice(0, -String(code).length), h("b", { class: `c${Math.floor(code / 100)}` }, code));
    else cells.what.textContent = words;
    cells.why.textContent = why(flow);
    cells.why.title = cells.why.textContent;
    cells.what.title = words;
  }

  /** The workload is what people know; the pod stands in the title and in the details. */
  function showEnd(cell, flow, side, suffix) {
    const name = end(flow, side);
    const known = flow[side]?.workloads?.length ? workload(flow, side) : name;
    const slash = known.indexOf("/");
    show(cell, slash > 0 && h("i", {}, known.slice(0, slash + 1)), known.slice(slash + 1), suffix && h("i", {}, suffix));
    cell.title = `${name}${suffix}`;
  }

  // ---- what people do -------------------------------------------------------------------------------------------------------

  function apply(event) {
    event?.preventDefault();
    let wanted = {};
    try {
      wanted = parse(field.value);
    } catch {
      // said by run()
    }
    history.replaceState(null, "", `#/flows${Object.keys(wanted).length ? `?${new URLSearchParams(wanted)}` : ""}`);
    run();
  }

  function quick(words) {
    let wanted = {};
    try {
      wanted = parse(field.value);
    } catch {
      // what can't be read is replaced
    }
    delete wanted.verdict;
    field.value = write({ ...words, ...wanted });
    apply();
  }

  function mark(wanted) {
    QUICK.forEach(([, words], index) => chips[index].setAttribute("aria-pressed", String((words.verdict ?? "") === (wanted.verdict ?? ""))));
  }

  function setPaused(value) {
    paused = value;
    pause.textContent = paused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    announce(paused ? "Paused" : "Following");
    if (!paused) toTop();
  }

  function toTop() {
    list.scrollTop = 0;
    settle();
  }

  function step(by) {
    const at = active ? records.length - 1 - records.indexOf(active) : -1;
    const index = Math.max(0, Math.min(records.length - 1, at + by));
    active = records[records.length - 1 - index] ?? null;
    if (!active) return;
    if (!paused) setPaused(true); // what somebody reads must not move
    const height = rowHeight();
    if (index * height < list.scrollTop) list.scrollTop = index * height;
    if ((index + 1) * height > list.scrollTop + list.clientHeight) list.scrollTop = (index + 1) * height - list.clientHeight;
    list.setAttribute("aria-activedescendant", `flow-${active.uuid}`);
    draw();
  }

  function open(flow) {
    active = flow;
    openFlow(app, flow);
    draw();
  }

  list.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(list.clientHeight / rowHeight()) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -RECORDS_MAX, End: RECORDS_MAX };
    if (steps[event.key]) step(steps[event.key]);
    else if (event.key === "Enter" && active) open(active);
    else return;
    event.preventDefault();
  });
  list.addEventListener("scroll", () => {
    if (list.scrollTop < 4 && !paused) settle();
    else draw();
  });
  const resized = new ResizeObserver(draw);
  resized.observe(list);
  // A page that nobody sees follows nothing: following has every request recorded.
  const visibility = () => (document.hidden ? controller.abort() : run());
  document.addEventListener("visibilitychange", visibility);
  run();
  return () => {
    gone = true;
    controller.abort();
    resized.disconnect();
    document.removeEventListener("visibilitychange", visibility);
  };
}

// ---- one record ---------------------------------------------------------------------------------------------------------------

function openFlow(app, flow) {
  const ours = flow.tidegate ?? {};
  const http = flow.l7?.http;
  const filterLink = (words, text) => h("a", { href: `#/flows?${new URLSearchParams(words)}` }, text);
  const explained = h("pre", { class: "explained", "aria-live": "polite" });
  const facts = [
    ["Verdict", pill(verdict(flow))],
    ["Why", why(flow)],
    ["From", [filterLink({ source: workload(flow, "source") }, end(flow, "source")), labels(flow.source)]],
    ["To", [filterLink({ destination: workload(flow, "destination") }, `${end(flow, "destination")}${port(flow, "destination") ? `:${port(flow, "destination")}` : ""}`), labels(flow.destination)]],
    ["Decided by", flow.traffic_direction === "INGRESS" ? "the destination’s policy (ingress)" : "the source’s policy (egress)"],
    ["Policy", ours.policy && h("a", { href: `#/policies?${new URLSearchParams({ key: ours.policy })}` }, ours.policy)],
    ["Rule", ours.rule],
    ["Request", http && `${http.method} ${http.url} ${http.protocol ?? ""}`],
    ["Status", http?.code],
    ["gRPC", ours.grpc && `${ours.grpc.service}/${ours.grpc.method}, status ${ours.grpc.status ?? 0}`],
    ["DNS", flow.l7?.dns && `${(flow.l7.dns.qtypes ?? []).join(", ")} ${flow.l7.dns.query} → ${(flow.l7.dns.ips ?? []).join(", ") || "nothing"}`],
    ["Kafka", flow.l7?.kafka && `${flow.l7.kafka.api_key} v${flow.l7.kafka.api_version ?? 0} ${(ours.kafka?.topics ?? []).join(", ")}`],
    ["Server name", ours.tls?.server_name],
    ["Headers missing", ours.missing_headers?.join(", ")],
    ["Took", duration(flow.l7?.latency_ns)],
    ["Time", flow.time],
    ["Revision", ours.revision],
    ["Slot", ours.slot],
    ["Id", h("code", {}, flow.uuid)],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  const explain = h("button", { type: "button", class: "primary", onclick: ask }, "Explain by the policy in force");
  const copy = h("button", { type: "button", onclick: () => navigator.clipboard?.writeText(JSON.stringify(flow, null, 2)).then(() => announce("Copied")) }, "Copy JSON");
  app.openPanel(message(flow), h("dl", {}, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("p", { class: "actions" }, explain, copy), explained);

  async function ask() {
    try {
      const report = await get(`/v1/flows/${encodeURIComponent(flow.uuid)}/explain`);
      explained.textContent = report.text;
    } catch (error) {
      explained.textContent = error.message;
    }
  }
}

const labels = (found) => (found?.labels ?? []).length
  ? h("span", { class: "labels" }, found.labels.map((label) => h("code", {}, label.replace(/^k8s:/, ""))))
  : null;
