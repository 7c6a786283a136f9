/**
 * Watches a diagnosis and stays with it: for browsers, and Node 20 and later. Types: client.d.ts.
 *
 * Law: `onEvent` gets each event once, one at a time and in order; what may have been missed is told (`onGap`); every
 * close code's advice is obeyed.
 */

const STAY_AWAY = new Set([1008, 1009, 4409]);
const AT_ONCE = new Set([1000, 1012, 4401, 4408]);
const SPREAD_MS = 250; // "at once" is spread over this: a replica that restarts sends many clients away
const FIRST_MS = 1_000; // the back-off waits a random part (full jitter) of this, doubled each time,
const LONGEST_MS = 30_000; // up to this
const STABLE_MS = 10_000; // a connection that lived for this ends the back-off
const MOST_AT_ONCE = 3; // after so many connections running that did not, "at once" backs off, too
const JOIN_MS = 20_000; // from asking for a token to the welcome; the service takes up to 15 s of it
const ANSWER_MS = 10_000; // how long a ping may stay unanswered
const RENEW_MS = 60_000; // so long before it expires is a token renewed, or for the last fifth of its time
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const REMEMBERED = 2_000; // event ids: more than a full queue and what may be under way
const STORAGE_KEY = "realtime.client_id";

/** Connect, and stay connected until `close()` or a close code that says to stay away.
 * @param {import("./client.d.ts").Options} options */
export const watch = (options) => new Client(options).open();

export class Client {
  /** @type {import("./client.d.ts").State} */
  state = "closed";
  #options;
  #ack;
  #wanted = false;
  #turn = 0; // counts attempts: one that was overtaken while it waited for its token ends
  /** @type {WebSocket | null} */
  #socket = null;
  #failures = 0; // connections running that did not become stable
  #welcomedAt = Infinity;
  #known = false; // this device was welcomed before, so its queue should still be there
  #clockOffset = 0; // the service's clock minus this device's, in milliseconds
  #pingMs = JOIN_MS;
  /** @type {Record<string, ReturnType<typeof setTimeout>>} */
  #timers = {};
  /** @type {Set<string>} */
  #seen = new Set(); // ids of handled events, the oldest first
  #tail = Promise.resolve(); // the handling of what came so far
  /** @type {WebSocket | null} */
  #refused = null; // a handler failed on it: what follows there comes again, in order

  /** @param {import("./client.d.ts").Options} options */
  constructor(options) {
    this.#options = options;
    this.#ack = options.receipts === "ack";
    this.clientId = options.clientId === true ? this.#keptId(options.storage ?? localStorage) : options.clientId;
  }

  #keptId(storage) {
    const kept = storage.getItem(STORAGE_KEY);
    this.#known = kept !== null;
    const id = kept ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(36)).join("");
    storage.setItem(STORAGE_KEY, id);
    return id;
  }

  /** Connect, also after `close()` or a close code that said to stay away. */
  open() {
    if (this.#wanted) return this;
    this.#wanted = true;
    this.#failures = 0;
    globalThis.addEventListener?.("online", this.#wake);
    this.#connect();
    return this;
  }

  /** Leave. What is not acknowledged waits for the next connection. */
  close() {
    this.#forget(this.#socket);
    this.#end({ code: 1000, reason: "" });
  }

  async #connect() {
    const turn = ++this.#turn;
    this.#stopTimers();
    this.#welcomedAt = Infinity;
    this.#timers.silence = setTimeout(() => this.#drop(this.#socket, "no welcome in time"), JOIN_MS);
    this.#say("connecting", {});
    try {
      const token = await this.#options.token();
      if (turn !== this.#turn) return;
      const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
      const socket = (this.#socket = new Socket(this.#address(), ["realtime.v1", `bearer.${token}`]));
      socket.onmessage = ({ data }) => this.#hear(socket, JSON.parse(data), token);
      socket.onclose = ({ code, reason }) => this.#lost(socket, code, reason);
      socket.onerror = () => {}; // the close that follows says all there is to know
    } catch (error) {
      if (turn !== this.#turn) return;
      this.#complain(error);
      this.#comeBack(1006, "no token, or no socket");
    }
  }

  #address() {
    const url = new URL(`ws/${this.#options.diagnosis}`, `${this.#options.url}`.replace(/\/*$/, "/"));
    url.protocol = url.protocol.replace("http", "ws");
    if (this.clientId) url.searchParams.set("client_id", this.clientId);
    if (this.#ack) url.searchParams.set("receipts", "ack");
    return url.href;
  }

  #hear(socket, message, token) {
    this.#listen(socket);
    switch (message.type) {
      case "connect":
        return this.#welcome(socket, message, token);
      case "gap":
        return this.#inOrder(() => this.#options.onGap?.(message.data));
      case "error":
        return this.#complain(new Error(`${message.data.code}: ${message.data.message}`));
      default: // of types to come those with an id are events
        if (message.event_id) this.#inOrder(() => this.#handle(socket, message));
    }
  }

  #welcome(socket, { timestamp, data }, token) {
    this.#welcomedAt = performance.now();
    this.#clockOffset = Date.parse(timestamp) - Date.now();
    this.#pingMs = (this.#options.pingSeconds ?? data.heartbeat_seconds) * 1000;
    this.#listen(socket);
    this.#renewLater(socket, token);
    const missed = data.gap || (this.#known && !data.resumed); // the device's queue goes after 30 days without it
    this.#known = true;
    this.#say("open", { welcome: data });
    if (missed) this.#inOrder(() => this.#options.onGap?.({ evicted: null }));
  }

  /** Call the handler unless it had this event, and acknowledge it. */
  async #handle(socket, event) {
    if (socket === this.#refused) return;
    if (!this.#seen.has(event.event_id)) {
      try {
        await this.#options.onEvent(event);
      } catch (error) {
        this.#complain(error);
        if (this.#ack) {
          this.#refused = socket;
          return this.#drop(socket, "the handler failed");
        }
      }
      this.#seen.add(event.event_id);
      const [oldest] = this.#seen;
      if (this.#seen.size > REMEMBERED) this.#seen.delete(oldest);
    }
    if (this.#ack) this.#send(socket, { type: "ack", event_id: event.event_id });
  }

  #inOrder(work) {
    this.#tail = this.#tail.then(work).catch((error) => this.#complain(error));
  }

  /** Something came. After a silence, ask: a dead network says nothing, and browsers hide the service's PINGs. */
  #listen(socket) {
    clearTimeout(this.#timers.silence);
    this.#timers.silence = setTimeout(() => this.#ping(socket), this.#pingMs);
  }

  #ping(socket) {
    clearTimeout(this.#timers.silence);
    this.#send(socket, { type: "ping" });
    this.#timers.silence = setTimeout(() => this.#drop(socket, "no answer"), Math.min(this.#pingMs, ANSWER_MS));
  }

  /** Renew the token before it expires, by the service's clock. Without `exp` in it, 4401 will tell. */
  #renewLater(socket, token) {
    const left = expiryOf(token) * 1000 - Date.now() - this.#clockOffset;
    if (Number.isNaN(left)) return;
    const ask = async () => this.#options.token();
    const wait = left > 0 ? Math.max(1_000, left - Math.min(RENEW_MS, left / 5)) : RENEW_MS / 2;
    this.#timers.renewal = setTimeout(async () => {
      const renewed = await ask().catch((error) => (this.#complain(error), token));
      if (socket !== this.#socket) return;
      if (renewed !== token) this.#send(socket, { type: "auth", token: renewed });
      this.#renewLater(socket, renewed);
    }, Math.min(wait, LONGEST_TIMER_MS));
  }

  #wake = () => (this.state === "open" ? this.#ping(this.#socket) : this.#socket || this.#connect()); // online again

  #send(socket, frame) {
    if (socket === this.#socket) socket.send(JSON.stringify(frame));
  }

  /** Give up a connection that is dead; its own `close` event may take minutes. */
  #drop(socket, reason) {
    if (socket !== this.#socket) return;
    this.#forget(socket);
    this.#comeBack(1006, reason);
  }

  #lost(socket, code, reason) {
    this.#forget(socket);
    if (STAY_AWAY.has(code)) this.#end({ code, reason });
    else this.#comeBack(code, reason);
  }

  #comeBack(code, reason) {
    this.#turn += 1;
    this.#stopTimers();
    if (performance.now() - this.#welcomedAt > STABLE_MS) this.#failures = 0;
    const atOnce = AT_ONCE.has(code) && this.#failures < MOST_AT_ONCE;
    const most = atOnce ? SPREAD_MS : Math.min(LONGEST_MS, FIRST_MS * 2 ** this.#failures);
    const delay = Math.random() * most;
    this.#failures += 1;
    this.#timers.retry = setTimeout(() => this.#connect(), delay);
    this.#say("waiting", { code, reason, delay });
  }

  #end(detail) {
    this.#wanted = false;
    this.#turn += 1;
    this.#stopTimers();
    globalThis.removeEventListener?.("online", this.#wake);
    if (this.state !== "closed") this.#say("closed", detail);
  }

  #forget(socket) {
    this.#socket = null;
    if (socket) socket.onmessage = socket.onclose = null;
    socket?.close();
  }

  #stopTimers() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
  }

  #say(state, detail) {
    this.state = state;
    this.#options.onState?.(state, detail);
  }

  #complain(error) {
    (this.#options.onError ?? console.error)(error);
  }
}

/** `exp` of a JWT, in seconds; NaN for what is none. */
function expiryOf(token) {
  try {
    return Number(JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).exp);
  } catch {
    return NaN;
  }
}
