// The page: which view is shown, the node's status, colours. Views are functions (root, params, app) that return how to leave.

import { get, post } from "./api.js";
import { h, show } from "./dom.js";
import { flowsView } from "./flows.js";
import { mapView } from "./map.js";
import { policiesView } from "./policies.js";
import { workloadsView } from "./workloads.js";

const STATUS_EVERY_MS = 3000;
const views = { map: mapView, flows: flowsView, policies: policiesView, workloads: workloadsView };
const main = document.getElementById("main");
const panel = document.getElementById("panel");

const app = {
  status: null,
  listeners: new Set(),
  /** Call `take` with the status now and whenever there is a new one; returns how to stop. */
  onStatus(take) {
    this.listeners.add(take);
    if (this.status) take(this.status);
    return () => this.listeners.delete(take);
  },
  openPanel(title, ...content) {
    const close = h("button", { type: "button", class: "icon", "aria-label": "Close details", onclick: () => this.closePanel() }, "✕");
    this.before ??= document.activeElement;
    show(panel, h("div", { class: "panel-head" }, h("h2", { tabindex: "-1" }, title), close), h("div", { class: "panel-body" }, content));
    panel.hidden = false;
    document.body.classList.add("with-panel");
  },
  closePanel() {
    panel.hidden = true;
    document.body.classList.remove("with-panel");
    this.onPanelClosed?.();
    this.before?.focus?.({ preventScroll: true });
    this.before = null;
  },
  go(view, params = {}) {
    const query = new URLSearchParams(params).toString();
    location.hash = `#/${view}${query ? `?${query}` : ""}`;
  },
};

// ---- views ------------------------------------------------------------------------------------------------------------------

let leave = null;

function route() {
  const [, name = "map", query = ""] = location.hash.match(/^#\/(\w+)(?:\?(.*))?$/) ?? [];
  const view = views[name] ? name : "map";
  leave?.();
  app.onPanelClosed = null;
  if (!panel.hidden) app.closePanel();
  for (const link of document.querySelectorAll("#tabs a")) {
    if (link.getAttribute("href") === `#/${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${view[0].toUpperCase()}${view.slice(1)} · Tidegate`;
  main.className = view;
  leave = views[view](main, Object.fromEntries(new URLSearchParams(query)), app);
}

// ---- status -----------------------------------------------------------------------------------------------------------------

const health = document.getElementById("health");
const obstacles = document.getElementById("obstacles");

function showHealth(state, text, lines) {
  health.className = `health ${state}`;
  health.querySelector("span").textContent = text;
  show(obstacles, h("ul", {}, lines.map((line) => h("li", {}, line))));
  if (!lines.length) toggleObstacles(false);
}

function toggleObstacles(open) {
  obstacles.hidden = !open;
  health.setAttribute("aria-expanded", String(open));
}

async function pollStatus() {
  if (!document.hidden) {
    try {
      app.status = await get("/v1/status");
      document.getElementById("node").textContent = `${app.status.node} · r${app.status.revision}`;
      const wrong = app.status.obstacles;
      if (wrong.length) showHealth("warning", wrong.length === 1 ? "1 thing outstanding" : `${wrong.length} things outstanding`, wrong);
      else showHealth("ok", "All in force", ["Every policy is realised, every endpoint is ready."]);
      for (const take of app.listeners) take(app.status);
    } catch (error) {
      showHealth("down", error.status === 401 ? "Locked" : "No answer", [`The agent does not answer: ${error.message}`]);
    }
  }
  setTimeout(pollStatus, STATUS_EVERY_MS);
}

// ---- the token --------------------------------------------------------------------------------------------------------------

let asking = false;

function askForToken() {
  if (asking) return;
  asking = true;
  leave?.();
  leave = null;
  const field = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true, "aria-label": "Token" });
  const problem = h("p", { class: "problem", role: "alert" });
  const form = h("form", { class: "login", onsubmit: submit }, h("h1", {}, "Tidegate"),
    h("p", {}, "This node asks for its token (admin.tokenFile in node.yaml)."), field,
    h("button", { type: "submit", class: "primary" }, "Open"), problem);
  show(main, form);
  field.focus();
  async function submit(event) {
    event.preventDefault();
    try {
      await post("/v1/session", { token: field.value });
      location.reload();
    } catch (error) {
      problem.textContent = error.message;
    }
  }
}

// ---- colours ----------------------------------------------------------------------------------------------------------------

const THEMES = [["", "as the system", "◐"], ["light", "light", "○"], ["dark", "dark", "●"]];
const theme = document.getElementById("theme");

function setTheme(name) {
  const [value, words, sign] = THEMES.find(([each]) => each === name) ?? THEMES[0];
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  theme.textContent = sign;
  theme.title = `Colours: ${words}`;
  theme.setAttribute("aria-label", `Colours: ${words}`);
  localStorage.setItem("theme", value);
}

theme.addEventListener("click", () => {
  const index = THEMES.findIndex(([each]) => each === (document.documentElement.dataset.theme ?? ""));
  setTheme(THEMES[(index + 1) % THEMES.length][0]);
});

// ---- start ------------------------------------------------------------------------------------------------------------------

setTheme(localStorage.getItem("theme") ?? "");
health.addEventListener("click", () => toggleObstacles(obstacles.hidden));
window.addEventListener("hashchange", route);
window.addEventListener("tidegate:login", askForToken);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();  // the hash is ours
  main.focus();
});
window.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (!obstacles.hidden) toggleObstacles(false);
    else if (!panel.hidden) app.closePanel();
  }
});
route();
pollStatus();
