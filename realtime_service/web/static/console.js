/** The console: asks the service what it sees, plays clients and a publisher, and shows what becomes of each event. */

import { watch } from "./client.js";
import { find, h, keyed, plural, say } from "./console_dom.js";
import { Picture, kindOf } from "./console_flow.js";
import { bodyOf, loadKinds, showFields } from "./console_form.js";
import { EventLog } from "./console_log.js";

const OLD_MS = 10_000; // what happened longer ago is counted, and not played
const LOOK_MS = 250; // between two looks, however much happens
const DEMO_TOKENS_MS = 300_000; // they are good for 15 minutes
const NEWS_MS = 2_000; // a screen reader is not told more often
const NAMES = ["phone", "tablet", "watch", "laptop", "tv", ""];
const REASONS = {
  1006: "no connection",
  1008: "not allowed",
  1012: "the replica restarts",
  1013: "not now",
  4401: "the token expired",
  4408: "no receipt in time",
  4409: "replaced by a newer connection",
  4429: "too many frames",
};

const demo = document.documentElement.hasAttribute("data-demo");
const picture = new Picture();
const log = new EventLog((id) => label(id));
/** What was typed, or what the demo gave. Nowhere but here. */
const typed = { operator: "", client: "" };
let demoTokens = { at: -Infinity, of: {} };
let diagnosis = "";
let round = 0; // counts what is looked at: an answer to an older question does not count
let kinds = [];
/** @type {PageClient[]} */
let clients = [];
let numbered = 0;
const names = new Map(); // connection id or device key → what people call it
const latest = new Map(); // replica → the number of the last entry it was seen to have
let flow = null;

// Tokens

async function tokenFor(whom) {
  if (!demo) return whom === "operator" || !typed.client ? typed.operator : typed.client;
  if (performance.now() - demoTokens.at > DEMO_TOKENS_MS) {
    const answer = await fetch("/console/tokens", { method: "POST" });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    demoTokens = { at: performance.now(), of: await answer.json() };
  }
  return demoTokens.of[diagnosis] ?? Object.values(demoTokens.of)[0];
}

async function ask(path, whom, options = {}) {
  const headers = { ...options.headers, Authorization: `Bearer ${await tokenFor(whom)}` };
  return fetch(path, { ...options, headers });
}

// What the service sees

async function look() {
  const mine = ++round;
  let after = ""; // the first look does not wait for news
  let failures = 0;
  while (mine === round) {
    try {
      const answer = await ask(`/console/flow?diagnosis=${diagnosis}${after}`, "operator");
      if (mine !== round) return;
      const refused = answer.status === 401 || answer.status === 403;
      if (refused && !demo) return askForTokens((await answer.json()).detail);
      if (refused) demoTokens.at = -Infinity; // of a demo that ended; another one has taken its place
      if (!answer.ok) throw new Error((await answer.json()).detail);
      const seen = await answer.json();
      if (mine !== round) return;
      after = flow && flow.replica !== seen.replica ? "" : `&after=${seen.last}`;
      failures = 0;
      take(seen);
      await pause(LOOK_MS);
    } catch (error) {
      failures += 1;
      health(`The service does not answer (${error.message}); asking again.`, "bad");
      await pause(Math.min(5000, 500 * 2 ** failures));
    }
    if (document.hidden) await new Promise((shown) => addEventListener("visibilitychange", shown, { once: true }));
  }
}

const pause = (ms) => new Promise((over) => setTimeout(over, ms));

function take(seen) {
  flow = seen;
  for (const { device, connection_id } of flow.clients) {
    if (device && names.has(connection_id)) names.set(device, names.get(connection_id));
  }
  const shared = flow.queues.find((queue) => queue.kind === "shared").name;
  const queueOf = (device) => flow.queues.find((queue) => queue.device === device)?.name ?? shared;
  picture.show(flow, label);
  const fresh = flow.trace.filter(({ number }) => number > (latest.get(flow.replica) ?? 0));
  latest.set(flow.replica, flow.last);
  for (const entry of fresh) {
    picture.step(entry, shared, queueOf, Date.now() - entry.at > OLD_MS);
    log.note(entry.event_id, entry.type, entry.published).steps.push(entry);
  }
  const silent = flow.silent_replicas.length ? `; no answer from ${flow.silent_replicas.join(", ")}` : "";
  const broker = flow.broker ? "broker up" : "the broker is away";
  health(`Replica ${flow.replica}, ${broker}${silent}`, flow.broker && !silent ? "good" : "bad");
  if (fresh.length) log.show();
  showClients();
  tellNews();
}

function health(text, tone) {
  say(find("health"), text);
  find("health").dataset.tone = tone;
}

/** What a connection or a device is called: its name in this page, else the beginning of its id. */
const label = (id) => names.get(id) ?? `${id}`.slice(0, 8);

let told = -Infinity;
function tellNews() {
  const backlog = flow.queues.filter((queue) => queue.kind === "shared" || queue.kind === "device");
  const waiting = backlog.reduce((sum, queue) => sum + (queue.ready ?? 0), 0);
  const unproven = flow.clients.reduce((sum, client) => sum + client.unproven, 0);
  const connected = Object.values(flow.replicas).reduce((sum, count) => sum + count, 0);
  say(find("summary"), `${plural(connected, "client")} · ${waiting} waiting · ${unproven} not proven`);
  if (performance.now() - told < NEWS_MS) return;
  told = performance.now();
  const waits = `${plural(waiting, "event")} waiting in queues, ${unproven} sent and not proven`;
  say(find("news"), `${plural(connected, "client")} connected, ${waits}.`);
}

// Clients in this page

class PageClient {
  constructor(name, receipts) {
    this.key = ++numbered;
    this.name = name || `unnamed ${this.key}`;
    this.receipts = receipts;
    this.got = 0;
    this.gaps = 0;
    this.state = "connecting";
    this.why = "";
    this.frozen = false;
    this.thaw = () => {};
    this.client = watch({
      url: location.origin,
      diagnosis,
      clientId: name || undefined,
      receipts,
      token: () => tokenFor("client"),
      onEvent: (event) => this.#take(event),
      onGap: () => this.#change(() => (this.gaps += 1)),
      onState: (state, detail) => this.#turn(state, detail),
      onError: (error) => this.#change(() => (this.why = error.message)),
    });
  }

  async #take(event) {
    if (this.frozen) await new Promise((thaw) => (this.thaw = thaw));
    this.#change(() => (this.got += 1));
    log.note(event.event_id, event.type, event.timestamp);
  }

  #turn(state, { welcome, code }) {
    this.state = state;
    this.why = code && code !== 1000 ? `${code}: ${REASONS[code] ?? "closed"}` : "";
    if (welcome) {
      names.set(welcome.connection_id, this.name);
      this.connection = welcome.connection_id;
    }
    showClients();
  }

  #change(work) {
    work();
    showClients();
  }

  freeze() {
    this.frozen = !this.frozen;
    if (!this.frozen) this.thaw();
    showClients();
  }

  goOrCome() {
    if (this.state === "closed") this.client.open();
    else this.client.close();
  }

  leave() {
    this.client.close();
    this.thaw();
    clients = clients.filter((one) => one !== this);
    showClients();
    find("name").focus();
  }
}

const STATES = { connecting: "connecting …", open: "connected", waiting: "coming back …", closed: "offline" };

function showClients() {
  find("no-clients").hidden = clients.length > 0;
  keyed(find("clients"), clients, (client) => client.key, makeClient, (element, client) => {
    const [heading, state, numbers, buttons] = element.children;
    const [goOrCome, freeze] = buttons.children;
    const unproven = flow?.clients.find((one) => one.connection_id === client.connection)?.unproven ?? 0;
    element.dataset.state = client.frozen && client.state === "open" ? "frozen" : client.state;
    say(heading, client.name);
    const text = client.frozen && client.state === "open" ? "connected, frozen" : STATES[client.state];
    say(state, client.why ? `${text} (${client.why})` : text);
    const gaps = client.gaps ? `, ${plural(client.gaps, "gap")}` : "";
    say(numbers, `${plural(client.got, "event")} handled, ${unproven} unproven${gaps}; receipts by ${client.receipts}`);
    say(goOrCome, client.state === "closed" ? "Come back" : "Go offline");
    goOrCome.setAttribute("aria-label", `${goOrCome.textContent}: ${client.name}`);
    say(freeze, client.frozen ? "Thaw" : "Freeze");
    freeze.setAttribute("aria-label", `${freeze.textContent}: ${client.name}`);
    freeze.setAttribute("aria-pressed", String(client.frozen));
    freeze.disabled = client.receipts !== "ack";
  });
}

function makeClient(client) {
  const button = (act) => h("button", { type: "button", onclick: act });
  const leave = h("button", { type: "button", "aria-label": `Remove: ${client.name}` }, "Remove");
  leave.addEventListener("click", () => client.leave());
  return h("li", { className: "client" },
    h("h3"),
    h("p", { className: "state", role: "status" }),
    h("p", { className: "quiet" }),
    h("div", { className: "buttons" }, button(() => client.goOrCome()), button(() => client.freeze()), leave),
  );
}

// Publishing

async function publish() {
  const kind = kinds[find("kind").selectedIndex];
  const body = bodyOf(kind, diagnosis);
  const times = Number(find("times").value);
  say(find("publish-problem"), "");
  for (let done = 1; done <= times; done += 1) {
    const began = performance.now();
    const answer = await ask(kind.path, "client", {
      method: "POST",
      body,
      headers: { "Content-Type": "application/json" },
    });
    const told = await answer.json();
    if (answer.status === 429) {
      await pause(1000 * Number(answer.headers.get("Retry-After") ?? 1));
      done -= 1;
      continue;
    }
    if (!answer.ok) throw new Error([told.detail, ...(told.errors ?? [])].join("; "));
    log.note(told.event_id, kind.type, null).confirmed = performance.now() - began;
    picture.published(told.event_id, kind.type);
    say(find("published"), `${plural(done, "event")} confirmed by the broker.`);
    log.show();
  }
}

// The page

function askForTokens(problem) {
  round += 1;
  find("access").hidden = false;
  find("main").dataset.closed = "";
  say(find("access-problem"), typed.operator ? problem : "");
  health("Not signed in.", "bad");
  find("operator-token").focus();
}

function submitted(form, work, problem) {
  find(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = find(form).querySelector("button:not([type])");
    button.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (error) {
      if (problem) say(find(problem), error.message);
      else health(error.message, "bad");
    } finally {
      button.removeAttribute("aria-busy");
    }
  });
}

function lookAt(wanted) {
  diagnosis = wanted;
  flow = null;
  for (const client of [...clients]) client.leave();
  log.clear();
  latest.clear();
  showClients();
  look();
}

submitted("target", () => lookAt(find("diagnosis").value));
submitted("tokens", () => {
  typed.operator = find("operator-token").value.trim();
  typed.client = find("client-token").value.trim();
  find("access").hidden = true;
  delete find("main").dataset.closed;
  if (find("diagnosis").reportValidity()) lookAt(find("diagnosis").value);
});
submitted("connect", () => {
  const name = find("name").value;
  clients.push(new PageClient(name, find("receipts").value));
  showClients();
  const used = new Set(clients.map((client) => client.name));
  find("name").value = NAMES.find((free) => !used.has(free)) ?? "";
});
submitted("publish", publish, "publish-problem");
find("kind").addEventListener("change", () => showFields(kinds[find("kind").selectedIndex]));
find("clear").addEventListener("click", () => log.clear());

try {
  kinds = await loadKinds();
  find("kind").replaceChildren(...kinds.map(({ type }) => h("option", { value: type }, kindOf(type))));
  const isSimple = ({ schema }) => Object.values(schema.properties).every(({ type }) => type !== "object");
  find("kind").selectedIndex = Math.max(0, kinds.findIndex(isSimple));
  showFields(kinds[find("kind").selectedIndex]);
  if (demo) {
    await tokenFor("operator");
    find("diagnoses").replaceChildren(...Object.keys(demoTokens.of).map((id) => h("option", { value: id })));
  }
  find("diagnosis").value = Object.keys(demoTokens.of)[0] ?? "";
  find("name").value = NAMES[0];
  if (demo) lookAt(find("diagnosis").value);
  else askForTokens("");
} catch (error) {
  health(error.message, "bad");
}
find("main").ariaBusy = null;
