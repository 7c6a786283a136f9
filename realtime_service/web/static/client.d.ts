/** Types of client.js. */

export type State = "connecting" | "open" | "waiting" | "closed";

export interface Options {
  /** The service: `https://realtime.example`; `http`, `ws` and `wss` will do, too. */
  url: string | URL;
  diagnosis: number | bigint | string;
  /** Gives a token that is good for a while: asked for each connection, and before the last one expires. */
  token: () => string | Promise<string>;
  /**
   * Names this device, which then misses nothing that others received: 1–128 of `A-Za-z0-9._-`. `true`: a name made up
   * once and kept in `storage`. Of two connections with one name the older is ended (4409).
   */
  clientId?: string | true;
  /** `ack`: an event counts as received when `onEvent` has returned, or its promise is fulfilled, within 5 s. */
  receipts?: "pong" | "ack";
  /** Called once for each event, in order, never for two at a time. */
  onEvent: (event: EventMessage) => unknown;
  /** Events may be missing: load the current state. In order with `onEvent`. */
  onGap?: (gap: { evicted: number | null }) => unknown;
  onState?: (state: State, detail: StateDetail) => void;
  /** What `token`, `onEvent` and `onGap` throw, and the service's `error` frames; by default `console.error`. */
  onError?: (error: unknown) => void;
  /** Seconds of silence before the connection is asked whether it is alive; by default what the service advises. */
  pingSeconds?: number;
  /** Where `clientId: true` keeps the name; by default `localStorage`. */
  storage?: Pick<Storage, "getItem" | "setItem">;
  /** For Node before 22: `import WebSocket from "ws"`. */
  WebSocket?: new (url: string, protocols: string[]) => any;
}

export interface StateDetail {
  /** With `open`. */
  welcome?: Welcome;
  /** With `waiting` and `closed`: why. */
  code?: number;
  reason?: string;
  /** With `waiting`: milliseconds to the next attempt. */
  delay?: number;
}

export interface Welcome {
  connection_id: string;
  queued_messages: number;
  gap: boolean;
  resumed: boolean;
  receipts: "pong" | "ack" | "none";
  window: number;
  receipt_timeout_seconds: number;
  heartbeat_seconds: number;
}

interface Message<Type extends string, Data> {
  type: Type;
  diagnosis_id: number;
  event_id: string;
  /** RFC 3339, UTC: when it was published. */
  timestamp: string;
  data: Data;
  redelivered?: true;
}

export type EventMessage =
  | Message<
      "recommendation_update",
      { old_data: Record<string, unknown>; new_data: Record<string, unknown>; reason: string }
    >
  | Message<
      "effectiveness_update",
      { recommendation_id: number; effectiveness: number; confidence: number; sample_size: number }
    >
  | Message<"feedback_update", { feedback_id: number; rating: number; effectiveness: number }>;

/** Connect, and stay connected until `close()` or a close code that says to stay away. */
export function watch(options: Options): Client;

export class Client {
  constructor(options: Options);
  readonly state: State;
  /** The name this device goes by. */
  readonly clientId: string | undefined;
  /** Connect, also after `close()` or a close code that said to stay away. */
  open(): this;
  /** Leave. What is not acknowledged waits for the next connection. */
  close(): void;
}
