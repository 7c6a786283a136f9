// Starts the reference client and reports all it does; the same in Node and in a browser.
// `tokens`: given one after the other, the last one for ever; null: asking fails.
// `globalThis.behaviour`: what the handler does: nothing, "fail" or "hang" (until `globalThis.release()`).
export function watching(watch, { tokens, ...options }, report) {
  let hanging = [];
  globalThis.release = () => hanging.splice(0).forEach((resolve) => resolve());
  return watch({
    ...options,
    token() {
      const token = tokens.length > 1 ? tokens.shift() : tokens[0];
      report("token", token !== null);
      if (token === null) throw new Error("no token today");
      return token;
    },
    async onEvent(event) {
      report("event", event);
      if (globalThis.behaviour === "fail") throw new Error("the handler fails");
      if (globalThis.behaviour === "hang") await new Promise((resolve) => hanging.push(resolve));
    },
    onGap: (gap) => report("gap", gap),
    onState: (state, detail) => report(state, detail),
    onError: (error) => report("error", String(error)),
  });
}
