// node node.mjs WATCHING CLIENT OPTIONS [WS]: the reference client in Node; a pair of JSON a line for each thing it
// does. A line of standard input is JavaScript to run, with `client` at hand; its end is the end.
import { createInterface } from "node:readline";

const [watchingUrl, clientUrl, options, wsUrl] = process.argv.slice(2);
const { watching } = await import(watchingUrl);
const { watch } = await import(clientUrl);
const WebSocket = wsUrl ? (await import(wsUrl)).default : undefined;
const report = (what, value) => console.log(JSON.stringify([what, value]));
globalThis.client = watching(watch, { ...JSON.parse(options), WebSocket }, report);
for await (const line of createInterface({ input: process.stdin })) (0, eval)(line);
process.exit();
