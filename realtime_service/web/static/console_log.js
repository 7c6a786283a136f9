/** What became of each event: its path, step by step, with times. */

import { find, h, keyed, plural, say } from "./console_dom.js";
import { kindOf } from "./console_flow.js";

const MOST_EVENTS = 100;
const MOST_STEPS = 16; // of an event
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export class EventLog {
  #label;
  /** @type {Map<string, any>} event id → what is known of it, the newest last */
  #events = new Map();

  /** `label` names a device key or a connection. */
  constructor(label) {
    this.#label = label;
  }

  /** What is known of an event, for more to be added: `steps`, and `confirmed`, in milliseconds. */
  note(id, type, published) {
    if (!this.#events.has(id)) {
      this.#events.set(id, { id, type: "", published: null, noted: Date.now(), confirmed: null, steps: [] });
      if (this.#events.size > MOST_EVENTS) this.#events.delete(this.#events.keys().next().value);
    }
    const event = this.#events.get(id);
    if (type) event.type = kindOf(type);
    if (published) event.published = Date.parse(published);
    return event;
  }

  clear() {
    this.#events.clear();
    this.show();
  }

  show() {
    find("no-events").hidden = this.#events.size > 0;
    keyed(find("log"), [...this.#events.values()].reverse(), (event) => event.id, makeEvent, (element, event) => {
      const [heading, when, path] = element.children;
      const from = event.published ?? event.noted;
      say(heading, `${event.type || "event"} ${event.id.slice(0, 8)}`);
      say(when, `published ${clock.format(from)}`);
      when.dateTime = new Date(from).toISOString();
      const items = this.#path(event, from).map((item, place) => [...item, place]);
      keyed(path, items, (item) => item.at(-1) + item[0], makeStep);
    });
  }

  /** Its steps: text, tone, and milliseconds since it was published, or null. */
  #path({ confirmed, steps }, from) {
    const shown = steps.slice(-MOST_STEPS).map((step) => [...this.#words(step), step.at - from]);
    const hidden = steps.length - shown.length;
    return [
      ...(confirmed === null ? [] : [[`confirmed in ${confirmed.toFixed(0)} ms`, "good", null]]),
      ...(hidden ? [[plural(hidden, "earlier step"), "", null]] : []),
      ...shown,
    ];
  }

  #words({ stage, device, repeated, connections, count }) {
    const more = count > connections.length ? ` and ${count - connections.length} more` : "";
    const again = repeated ? ", again" : "";
    const whom = connections.map(this.#label).join(", ") + more;
    switch (stage) {
      case "delivered":
        return [`${device ? `${this.#label(device)}’s` : "diagnosis’"} queue → replica${again}`, ""];
      case "relayed":
        return ["told to other replicas", ""];
      case "sent":
        return [`sent to ${whom}${repeated ? ", marked redelivered" : ""}`, repeated ? "again" : ""];
      case "proven":
        return [`proven by ${whom}`, "good"];
      default:
        return [`not proven by ${whom}`, "bad"];
    }
  }
}

const makeEvent = () => h("li", { className: "event" }, h("h3"), h("time"), h("ol", { className: "path" }));

function makeStep([text, tone, after]) {
  const step = h("li", { className: `step ${tone}` }, text);
  if (after !== null) step.append(" ", h("span", { className: "after" }, `+${Math.max(0, after).toFixed(0)} ms`));
  return step;
}
