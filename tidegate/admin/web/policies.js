// Policies with their status, and what one of them does: whom it selects, what each rule says, what it decided of late.

import { get } from "./api.js";
import { empty, h, pill, show, table } from "./dom.js";
import { count } from "./format.js";

export function policiesView(root, params, app) {
  return params.key ? effect(root, params.key, app) : list(root, app);
}

function list(root, app) {
  let before = "";
  return app.onStatus((status) => {
    const now = JSON.stringify([status.policies, status.document_errors]);
    if (now === before) return; // nothing moves under the reader
    before = now;
    const rows = status.policies.map((policy) => h("tr", {},
      h("td", {}, h("a", { href: `#/policies?${new URLSearchParams({ key: policy.key })}` }, policy.key)),
      h("td", {}, pill(policy.state)), h("td", {}, policy.mode), h("td", { class: "number" }, policy.endpoints),
      h("td", { class: "number" }, policy.revision || ""), h("td", {}, h("code", {}, policy.source)),
      h("td", {}, [policy.message, policy.hint].filter(Boolean).join("; "))));
    const errors = status.document_errors.map((error) => h("tr", {}, h("td", {}, h("code", {}, `${error.source}[${error.index}]`)),
      h("td", {}, h("code", {}, error.path)), h("td", {}, [error.message, error.hint].filter(Boolean).join("; ")),
      h("td", {}, error.kept ? "its last good version is in force" : "not in force")));
    show(root,
      errors.length ? h("section", { class: "card bad" }, h("h2", {}, "Documents that can’t be read"), table(["Document", "Field", "Problem", ""], errors)) : null,
      rows.length ? table(["Policy", "State", "Mode", "Endpoints", "Revision", "Document", ""], rows, { class: "wide" })
        : empty("No policies", "Nothing is denied until a policy selects an endpoint. Write one into the directory that node.yaml names."));
  });
}

const chips = (recent) => Object.entries(recent).map(([word, number]) => h("span", { class: `tally ${word}`, title: `${number} ${word} lately` }, `${count(number)} ${word}`));

function effect(root, key, app) {
  let gone = false;
  show(root, h("p", { class: "facts" }, "Loading…"));
  (async () => {
    try {
      const found = await get("/v1/policies/effect", { key });
      if (!gone) paint(root, found, app);
    } catch (error) {
      if (!gone) show(root, back(), empty("No such policy", error.message));
    }
  })();
  return () => { gone = true; };
}

const back = () => h("p", {}, h("a", { href: "#/policies" }, "← All policies"));

function paint(root, found, app) {
  const status = app.status?.policies.find((policy) => policy.key === found.key);
  const selected = found.selects.endpoints.map((each) => h("a", {
    class: `tag${each.local ? " local" : ""}`, href: `#/flows?${new URLSearchParams({ name: each.key, policy: found.key })}`,
  }, each.key));
  const more = found.selects.count - selected.length;
  const denies = found.default_deny.length
    ? `What no rule allows is ${found.mode === "audit" ? "reported, not denied" : "denied"}: ${found.default_deny.join(" and ")}.`
    : "It denies nothing by default.";
  show(root, back(),
    h("div", { class: "title" }, h("h1", {}, found.key), status && pill(status.state), h("span", { class: "pill plain" }, found.mode)),
    found.description && h("p", {}, found.description),
    status?.message && h("p", { class: "problem" }, [status.message, status.hint].filter(Boolean).join("; ")),
    h("section", { class: "card" }, h("h2", {}, `Selects ${count(found.selects.count)} endpoint${found.selects.count === 1 ? "" : "s"}`),
      h("p", {}, found.selects.subject.map((words) => h("code", {}, words))), h("p", { class: "tags" }, selected, more > 0 ? `and ${count(more)} more` : null),
      h("p", {}, denies)),
    h("section", { class: "card" }, h("h2", {}, "Rules"), found.rules.length ? found.rules.map(rule) : h("p", {}, "None: nothing is allowed.")),
    h("section", { class: "card" }, h("h2", {}, "Lately"),
      h("p", { class: "tags" }, chips(found.recent), found.nearest_misses ? h("span", { class: "tally denied" }, `${count(found.nearest_misses)} denied that it nearly allowed`) : null,
        !Object.keys(found.recent).length && !found.nearest_misses ? "Nothing was decided by it." : null),
      h("p", { class: "actions" }, h("a", { class: "button", href: `#/flows?${new URLSearchParams({ policy: found.key })}` }, "Show flows"))),
    found.slots.length ? h("section", { class: "card" }, h("h2", {}, "Slots"),
      table(["Slot", "Protocol", "Envoy", "Rules in it"], found.slots.map((slot) => h("tr", {}, h("td", { class: "number" }, slot.id), h("td", {}, slot.protocol),
        h("td", {}, pill(slot.ready ? "ready" : "waiting")), h("td", {}, slot.rules.map((each) => h("div", {}, h("code", {}, each)))))))) : null);
}

function rule(each) {
  const ports = each.ports.length ? each.ports : [{ ports: ["any port"], messages: [], server_names: [] }];
  return h("article", { class: `rule ${each.effect}` },
    h("h3", {}, h("span", { class: `pill ${each.effect === "deny" ? "denied" : "forwarded"}` }, each.effect), ` ${each.direction === "ingress" ? "from" : "to"} `,
      each.peers.map((words, index) => [index ? " or " : "", h("strong", {}, words)]), chips(each.recent)),
    ports.map((port) => h("div", { class: "port" }, h("span", {}, "on ", h("code", {}, port.ports.join(", ")), port.protocol ? ` ${port.protocol}` : "",
      port.server_names.length ? ` for ${port.server_names.join(", ")}` : ""),
    port.messages.length ? h("ul", {}, port.messages.map((one) => h("li", {}, h("span", { class: one.effect === "deny" ? "bad" : "good" }, one.effect), ` ${one.words} `, chips(one.recent)))) : null)),
    h("code", { class: "path" }, each.path));
}
