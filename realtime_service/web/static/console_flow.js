/** The picture: publishers → exchanges → queues → replicas → clients, counted, and a dot for each step of an event. */

import { find, h, keyed, say } from "./console_dom.js";

const BACKLOG = 100; // what a queue keeps unless it is set otherwise: where a bar is full
const STEP_MS = 420;
const MOST_DOTS = 80;
const SVG = "http://www.w3.org/2000/svg";
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** What to call an exchange: the kind of its events. */
export const kindOf = (type) => type.replace(/_update$/, "");

export class Picture {
  #counts = { here: 0, others: 0, recommendation: 0, effectiveness: 0, feedback: 0 };
  /** @type {Map<string, string>} event id → where it came from, so that its dots begin there */
  #origins = new Map();
  /** @type {Map<string, number>} event id → when its next dot may leave: they go one after the other */
  #next = new Map();
  #wires = "";
  #replica = "";
  #frame = 0;

  constructor() {
    new ResizeObserver(() => this.#redraw()).observe(find("picture"));
  }

  /** An event of this page has the broker's confirm. */
  published(eventId, type) {
    this.#remember(eventId, "here", type);
  }

  /** Something happened to an event. `shared`: the name of the diagnosis' queue; `old`: too long ago to be played. */
  step(entry, shared, queueOf, old) {
    if (entry.type) this.#remember(entry.event_id, "others", entry.type, old);
    if (old) return;
    const replica = `replica ${this.#replica}`;
    switch (entry.stage) {
      case "delivered": {
        const queue = entry.device ? queueOf(entry.device) : shared;
        return this.#fly(entry.event_id, [[queue, replica, entry.repeated ? "again" : ""]]);
      }
      case "sent":
        return this.#fly(entry.event_id, entry.connections.map((id) => [replica, id, entry.repeated ? "again" : ""]));
      case "proven":
        return this.#fly(entry.event_id, [[entry.connections[0], replica, "proven"]]);
      case "left_unproven":
        return this.#fly(entry.event_id, [[replica, shared, "returned"]]);
    }
  }

  /** The counts as they are. `label` names a device key or a connection. */
  show(flow, label) {
    this.#replica = flow.replica;
    const counts = this.#counts;
    nodes("publishers", [
      { key: "here", name: "this page", count: counts.here, unit: "confirmed" },
      { key: "others", name: "other publishers", count: counts.others, unit: "seen" },
    ]);
    nodes(
      "exchanges",
      ["recommendation", "effectiveness", "feedback"].map((kind) => ({
        key: kind,
        name: kind,
        count: counts[kind],
        unit: counts[kind] === 1 ? "event" : "events",
      })),
    );
    nodes("queues", flow.queues.map((queue) => queueNode(queue, flow.broker, label)));
    nodes(
      "replicas",
      Object.entries(flow.replicas).map(([name, count]) => ({
        key: `replica ${name}`,
        name,
        count,
        unit: count === 1 ? "client" : "clients",
        note: name === flow.replica ? "answers this page" : "",
        kind: name === flow.replica ? "asked" : "",
      })),
    );
    const elsewhere = Object.values(flow.replicas).reduce((sum, count) => sum + count, 0) - flow.clients.length;
    nodes("connections", [
      ...flow.clients.map((client) => ({
        key: client.connection_id,
        name: label(client.connection_id),
        count: client.unproven,
        unit: "unproven",
        note: `receipts: ${client.receipts}`,
        tone: client.unproven ? "waits" : "",
      })),
      ...(elsewhere > 0 ? [{ key: "elsewhere", name: "on other replicas", count: elsewhere, unit: "clients" }] : []),
      ...(flow.clients.length || elsewhere > 0 ? [] : [{ key: "nobody", name: "nobody", count: 0, unit: "clients" }]),
    ]);
    this.#redraw();
  }

  #remember(eventId, origin, type, old = false) {
    const kind = kindOf(type);
    if (this.#origins.has(eventId)) return;
    this.#origins.set(eventId, origin);
    if (this.#origins.size > 1000) this.#origins.delete(this.#origins.keys().next().value);
    this.#counts[origin] += 1;
    this.#counts[kind] += 1;
    if (old) return;
    this.#fly(eventId, [[origin, kind, ""]]);
    this.#fly(eventId, [...find("queues").children].filter(isBacklog).map((queue) => [kind, queue.dataset.key, ""]));
  }

  /** Send dots on their way, after those that this event sent before. */
  #fly(eventId, flights) {
    if (still.matches || document.hidden || find("dots").childElementCount > MOST_DOTS) return;
    const now = performance.now();
    const start = Math.max(now, this.#next.get(eventId) ?? 0);
    this.#next.set(eventId, start + STEP_MS);
    if (this.#next.size > 1000) this.#next.delete(this.#next.keys().next().value);
    setTimeout(() => flights.forEach(([from, to, tone]) => fly(from, to, tone)), start - now);
  }

  #redraw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => {
      const wires = links().map(([from, to]) => curve(anchors(from, to))).join(" ");
      if (wires === this.#wires) return;
      this.#wires = wires;
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", wires);
      find("wires").replaceChildren(path);
    });
  }
}

function queueNode(queue, broker, label) {
  const names = {
    shared: queue.name,
    device: `device ${label(queue.device)}`,
    unrouted: "first contact",
    parked: "parked",
  };
  const notes = {
    shared: "what nobody has received",
    device: "what it has not received",
    unrouted: "for diagnoses without a queue",
    parked: "events that were refused",
  };
  const unproven = queue.unsettled ? `${queue.unsettled} delivered, not settled` : "";
  const missing = !broker ? "the broker does not answer" : queue.ready === null ? "not made yet" : "";
  return {
    key: queue.name,
    name: names[queue.kind],
    count: queue.ready ?? "–",
    unit: queue.ready === null ? "" : "waiting",
    note: missing || unproven || notes[queue.kind],
    tone: queue.ready || queue.unsettled ? (queue.kind === "parked" ? "bad" : "waits") : "",
    kind: queue.kind,
    bar: queue.kind === "parked" || queue.kind === "unrouted" ? undefined : [queue.ready ?? 0, queue.unsettled],
  };
}

/** Make a stage's list these nodes: `{ key, name, count, unit, note, tone, kind, bar }`. */
function nodes(list, items) {
  keyed(find(list), items, (item) => item.key, make, (element, item) => {
    const [name, figure, note, bar] = element.children;
    say(name, item.name);
    const [count, unit] = figure.children;
    if (count.textContent !== String(item.count) && count.textContent !== "") pulse(element);
    say(count, String(item.count));
    say(unit, item.unit);
    say(note, item.note ?? "");
    element.dataset.tone = item.tone ?? "";
    element.dataset.kind = item.kind ?? "";
    bar.hidden = !item.bar;
    if (item.bar) {
      const [ready, unsettled] = bar.children;
      ready.style.width = `${Math.min(100, (100 * item.bar[0]) / BACKLOG)}%`;
      unsettled.style.width = `${Math.min(100, (100 * item.bar[1]) / BACKLOG)}%`;
    }
  });
}

const make = () =>
  h("li", { className: "node" },
    h("span", { className: "name" }),
    h("span", { className: "figure" }, h("strong"), " ", h("span")),
    h("span", { className: "note" }),
    h("span", { className: "bar", "aria-hidden": "true" }, h("i"), h("i")), // ready, then unsettled
  );

function pulse(element) {
  if (still.matches) return;
  element.animate([{ boxShadow: "0 0 0 3px var(--accent)" }, { boxShadow: "0 0 0 3px transparent" }], 600);
}

const isBacklog = (element) => element.dataset.kind === "shared" || element.dataset.kind === "device";

/** What leads where, as pairs of elements. */
function links() {
  const all = (id) => [...find(id).children];
  const queues = all("queues").filter(isBacklog);
  const asked = all("replicas").filter(({ dataset }) => dataset.kind === "asked");
  const pairs = (from, to) => from.flatMap((one) => to.map((other) => [one, other]));
  return [
    ...pairs(all("publishers"), all("exchanges")),
    ...pairs(all("exchanges"), queues),
    ...pairs(queues.filter((queue) => queue.dataset.kind === "shared"), all("replicas")),
    ...pairs(queues.filter((queue) => queue.dataset.kind === "device"), asked),
    ...pairs(asked, all("connections").filter((element) => !["elsewhere", "nobody"].includes(element.dataset.key))),
  ];
}

/** Where a line leaves one element and meets the other: at their sides, or above and below. */
function anchors(from, to) {
  const origin = find("picture").getBoundingClientRect();
  const [a, b] = [from.getBoundingClientRect(), to.getBoundingClientRect()];
  const across = a.right <= b.left || b.right <= a.left;
  const point = (box, right, below) => ({
    x: Math.round((across ? (right ? box.right : box.left) : box.left + box.width / 2) - origin.left),
    y: Math.round((across ? box.top + box.height / 2 : below ? box.bottom : box.top) - origin.top),
  });
  const forward = across ? a.right <= b.left : a.bottom <= b.top;
  return { from: point(a, forward, forward), to: point(b, !forward, !forward), across };
}

function curve({ from, to, across }) {
  const half = across ? (from.x + to.x) / 2 : (from.y + to.y) / 2;
  const [first, second] = across ? [`${half} ${from.y}`, `${half} ${to.y}`] : [`${from.x} ${half}`, `${to.x} ${half}`];
  return `M${from.x} ${from.y} C${first} ${second} ${to.x} ${to.y}`;
}

function fly(fromKey, toKey, tone) {
  const node = (key) => find("stages").querySelector(`[data-key="${CSS.escape(key)}"]`);
  const [from, to] = [node(fromKey), node(toKey)];
  if (!from || !to) return;
  const ends = anchors(from, to);
  const dot = h("i", { className: `dot ${tone}` });
  find("dots").append(dot);
  const at = ({ x, y }) => `translate(${x}px, ${y}px)`;
  const flight = dot.animate([{ transform: at(ends.from) }, { transform: at(ends.to) }], {
    duration: STEP_MS,
    easing: "cubic-bezier(.4, 0, .3, 1)",
  });
  flight.onfinish = flight.oncancel = () => dot.remove();
}
