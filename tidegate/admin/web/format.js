// Numbers, times and records in words.

/** A rate: 0.4, 12, 1.2k. */
export function rate(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(1)}k`;
  if (value >= 10 || value === 0) return String(Math.round(value));
  return value.toFixed(1);
}

/** A count with thousands set apart. */
export const count = (value) => value.toLocaleString("en");

/** The local time of day of an RFC 3339 time with nanoseconds, to the millisecond. */
export function clock(stamp) {
  const when = new Date(`${stamp.slice(0, 23)}Z`);
  return Number.isNaN(when.getTime()) ? stamp : `${when.toTimeString().slice(0, 8)}.${stamp.slice(20, 23)}`;
}

/** A duration in nanoseconds (text, as in the record). */
export function duration(nanoseconds) {
  const ms = Number(nanoseconds) / 1e6;
  if (!ms) return "";
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms >= 10 ? `${Math.round(ms)} ms` : `${ms.toFixed(2)} ms`;
}

/** Who one end of a record is: an endpoint, else an address with its reserved name. */
export function end(flow, side) {
  const found = flow[side] ?? {};
  if (found.pod_name) return `${found.namespace}/${found.pod_name}`;
  const reserved = (found.labels ?? []).find((label) => label.startsWith("reserved:"));
  const address = flow.IP?.[side] ?? "?";
  return reserved ? `${address} (${reserved.slice(9)})` : address;
}

/** The workload of one end, as the filter `source` or `destination` takes it. */
export function workload(flow, side) {
  const found = flow[side] ?? {};
  if (found.workloads?.length) return `${found.namespace}/${found.workloads[0].name}`;
  const reserved = (found.labels ?? []).find((label) => label.startsWith("reserved:"));
  return reserved ? reserved.slice(9) : flow.IP?.[side] ?? "";
}

export const verdict = (flow) => flow.tidegate?.verdict ?? (flow.verdict ?? "").toLowerCase();

export function port(flow, side) {
  const l4 = Object.values(flow.l4 ?? {})[0] ?? {};
  return l4[`${side}_port`];
}

/** The message in a line, shorter than the record's own summary: the other columns say the rest. */
export function message(flow) {
  const http = flow.l7?.http;
  if (!http) return flow.Summary ?? "";
  const grpc = flow.tidegate?.grpc;
  return `${http.method} ${http.url}${http.code ? ` ${http.code}` : ""}${grpc ? ` grpc-status ${grpc.status ?? 0}` : ""}`;
}

/** What decided, in words. */
export function why(flow) {
  const ours = flow.tidegate ?? {};
  if (ours.policy) return `${ours.policy}:${ours.rule ?? ""}`;
  if (ours.nearest_miss) return `no rule allows it; nearest: ${ours.nearest_miss}`;
  const reason = flow.drop_reason_desc ?? "";
  return reason === "POLICY_DENIED" ? "no rule allows it" : reason.toLowerCase().replaceAll("_", " ");
}
