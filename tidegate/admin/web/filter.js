// The filter language in a text box: `verdict:denied status:4xx path:"^/v1 x"`. The server reads the values; here are only words.
// docs/flows.md has the list.

export const WORDS = [
  "verdict", "namespace", "name", "source", "destination", "label", "port", "protocol", "method", "path", "status",
  "topic", "dns", "policy", "since", "until",
];

/** URL parameters of what is written. A word without a key is a name. Throws on an unknown key. */
export function parse(text) {
  const params = {};
  for (const [, key, quoted, bare] of text.matchAll(/(?:(\w+):)?(?:"([^"]*)"|(\S+))/g)) {
    const value = quoted ?? bare;
    const name = key ?? "name";
    if (!WORDS.includes(name)) throw new Error(`${name} is no filter; use one of ${WORDS.join(", ")}`);
    if (value === "") continue;
    params[name] = params[name] && !["path", "since", "until"].includes(name) ? `${params[name]},${value}` : value;
  }
  return params;
}

/** The text that `parse` reads back. */
export function write(params) {
  return Object.entries(params)
    .filter(([key, value]) => WORDS.includes(key) && value)
    .map(([key, value]) => `${key}:${/\s|^$/.test(value) ? `"${value}"` : value}`)
    .join(" ");
}
