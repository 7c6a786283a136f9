// Publishes one event from Node.js, and says whether the broker has it. Needs: npm install amqplib
//
//   REALTIME_AMQP_URL=amqp://… node publish.mjs DIAGNOSIS_ID [EVENT_ID]
//
// Run again under the same EVENT_ID after an error: clients see the event once.
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const [diagnosis, eventId = randomUUID()] = process.argv.slice(2);
if (!/^[1-9]\d*$/.test(diagnosis ?? "")) {
  console.error("the first argument is a diagnosis id");
  process.exit(2);
}
const giveUp = (error) => {
  console.error(`not published, try again as ${eventId}: ${error.message}`);
  process.exit(1);
};
setTimeout(giveUp, 10_000, new Error("the broker did not confirm in time")).unref();
const event = { diagnosis_id: Number(diagnosis), feedback_id: 456, rating: 4, effectiveness: 0.75 };

try {
  const connection = await amqp.connect(process.env.REALTIME_AMQP_URL);
  connection.on("error", giveUp);
  const channel = await connection.createConfirmChannel();
  channel.on("error", giveUp); // no such exchange, no permission
  let returned = false;
  channel.on("return", () => (returned = true)); // no queue took it: the service never ran on this broker
  channel.publish("diagnosis.feedback", `diagnosis.${diagnosis}`, Buffer.from(JSON.stringify(event)), {
    messageId: eventId,
    contentType: "application/json",
    persistent: true,
    mandatory: true,
    timestamp: Math.floor(Date.now() / 1000),
    headers: { timestamp_in_ms: Date.now() },
  });
  await channel.waitForConfirms(); // rejects when the broker refuses
  if (returned) throw new Error("no queue took the event");
  await connection.close();
  console.log(eventId);
} catch (error) {
  giveUp(error);
}
