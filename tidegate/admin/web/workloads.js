// Endpoints of this node with their state, and what is on it but under no policy.

import { empty, h, pill, show, table } from "./dom.js";

export function workloadsView(root, params, app) {
  let before = "";
  return app.onStatus((status) => {
    const now = JSON.stringify([status.endpoints, status.unmanaged]);
    if (now === before) return;
    before = now;
    const unmanaged = status.unmanaged ?? [];
    const rows = status.endpoints.map((endpoint) => h("tr", {},
      h("td", {}, h("a", { href: `#/flows?${new URLSearchParams({ name: endpoint.key })}` }, endpoint.key)), h("td", {}, pill(endpoint.state)),
      h("td", { class: "number" }, endpoint.policies), h("td", { class: "number" }, endpoint.identity || ""), h("td", {}, h("code", {}, endpoint.attachment)),
      h("td", {}, endpoint.addresses.map((address) => h("code", {}, address))), h("td", {}, endpoint.message)));
    show(root,
      unmanaged.length ? h("section", { class: "card warn" }, h("h2", {}, `${unmanaged.length} unmanaged`),
        h("p", {}, "They are on this node, and no policy reaches their traffic."),
        table(["Name", "Kind", "Why"], unmanaged.map((each) => h("tr", {}, h("td", {}, h("code", {}, each.name)), h("td", {}, each.kind), h("td", {}, each.reason))))) : null,
      rows.length ? table(["Endpoint", "State", "Policies", "Identity", "Attached at", "Addresses", ""], rows, { class: "wide" })
        : empty("No endpoints on this node", "endpoints.yaml names none with an interface or a cgroup."));
  });
}
