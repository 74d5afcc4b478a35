// Where the workloads of a service map stand: callers left, callees right, few crossings. Pure, and the same for the same input, so
// that a map that has not changed does not move.

const COLUMNS_MAX = 6;
const ROWS_MIN = 9; // a column this high is never split
const CROWD = 60; // workloads from which on they stand closer
const SWEEPS = 6;
const LOOP = 84; // edges within the last column bulge to its right
export const NODE = { width: 176, height: 34, gapX: 116, gapY: 14, top: 16, left: 16 };

/** `nodes`: ids; `edges`: {source, destination}. Returns a Map id -> {x, y, column} and the size of it all. */
export function layout(nodes, edges) {
  const out = new Map(nodes.map((id) => [id, []]));
  const into = new Map(nodes.map((id) => [id, []]));
  for (const { source, destination } of edges) {
    if (source === destination) continue;
    out.get(source)?.push(destination);
    into.get(destination)?.push(source);
  }
  const columns = arrange(assign(nodes, out, into), out, into);
  const gapY = nodes.length > CROWD ? NODE.gapY / 2 : NODE.gapY;
  const heights = columns.map((ids) => ids.length * (NODE.height + gapY) - gapY);
  const tallest = Math.max(0, ...heights);
  const places = new Map();
  columns.forEach((ids, column) => {
    const top = NODE.top + (tallest - heights[column]) / 2;
    ids.forEach((id, index) => places.set(id, {
      x: NODE.left + column * (NODE.width + NODE.gapX), y: top + index * (NODE.height + gapY), column,
    }));
  });
  const width = NODE.left + Math.max(1, columns.length) * (NODE.width + NODE.gapX) - NODE.gapX + LOOP;
  return { places, width, height: 2 * NODE.top + Math.max(NODE.height, tallest) };
}

/** By longest path from the callers, without the edges that close a cycle; if that makes too many columns or too high ones, the same
 * order cut into COLUMNS_MAX even ones. */
function assign(nodes, out, into) {
  const depth = new Map();
  const state = new Map(); // 1: on the path, 2: done
  const order = [];
  const forward = new Map(nodes.map((id) => [id, []]));
  for (const root of [...nodes].sort((a, b) => into.get(a).length - into.get(b).length || (a < b ? -1 : 1))) {
    if (state.has(root)) continue;
    const stack = [[root, 0]];
    state.set(root, 1);
    while (stack.length) {
      const frame = stack[stack.length - 1];
      const next = out.get(frame[0])[frame[1]++];
      if (next === undefined) {
        state.set(frame[0], 2);
        order.push(frame[0]);
        stack.pop();
      } else if (state.get(next) !== 1) {
        forward.get(frame[0]).push(next);
        if (!state.has(next)) {
          state.set(next, 1);
          stack.push([next, 0]);
        }
      }
    }
  }
  for (const id of nodes) depth.set(id, 0);
  for (const id of order.reverse()) {
    for (const next of forward.get(id)) depth.set(next, Math.max(depth.get(next), depth.get(id) + 1));
  }
  const levels = [];
  for (const id of nodes) (levels[depth.get(id)] ??= []).push(id);
  const natural = levels.filter(Boolean).map((ids) => ids.sort());
  const rows = Math.ceil(nodes.length / COLUMNS_MAX);
  if (natural.length <= COLUMNS_MAX && natural.every((ids) => ids.length <= Math.max(ROWS_MIN, rows))) return natural;
  const columns = [];
  for (const id of natural.flat()) {
    if (!columns.length || columns.at(-1).length >= rows) columns.push([]);
    columns.at(-1).push(id);
  }
  return columns;
}

/** Order each column by the mean place of its neighbours, forth and back. */
function arrange(columns, out, into) {
  const place = new Map();
  const number = () => columns.forEach((ids) => ids.forEach((id, index) => place.set(id, (index + 0.5) / ids.length)));
  number();
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const ids of sweep % 2 ? [...columns].reverse() : columns) {
      const mean = new Map(ids.map((id) => {
        const near = [...into.get(id), ...out.get(id)].map((other) => place.get(other));
        return [id, near.length ? near.reduce((sum, each) => sum + each, 0) / near.length : place.get(id)];
      }));
      ids.sort((a, b) => mean.get(a) - mean.get(b) || (a < b ? -1 : 1));
    }
    number();
  }
  return columns;
}
