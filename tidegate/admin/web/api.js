// The admin API: JSON answers and streams of lines.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function address(path, params) {
  const query = new URLSearchParams(Object.entries(params ?? {}).filter(([, value]) => value !== "" && value !== undefined));
  return query.size ? `${path}?${query}` : path;
}

async function checked(response) {
  if (response.ok) return response;
  let text = response.statusText;
  try {
    text = (await response.json()).error ?? text;
  } catch {
    // not JSON: the status says enough
  }
  if (response.status === 401) window.dispatchEvent(new CustomEvent("tidegate:login"));
  throw new ApiError(response.status, text);
}

/** The JSON answer to a question. */
export async function get(path, params, signal) {
  return (await checked(await fetch(address(path, params), { signal, headers: { Accept: "application/json" } }))).json();
}

export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await checked(await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }))).json();
}

/** Hand the lines of an endless answer to `take`, a batch at a time, until `signal` or the end. */
export async function follow(path, params, signal, take, opened) {
  const response = await checked(await fetch(address(path, params), { signal }));
  opened?.();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    const batch = [];
    for (const line of lines) if (line) batch.push(JSON.parse(line));
    if (batch.length) take(batch);
  }
}
