/** The form of an event, made of its JSON Schema in /openapi.json. */

import { find, h } from "./console_dom.js";

/** @typedef {{ type: string, path: string, schema: any, example: any }} Kind */

/** The kinds of event that can be published, with the route and the schema of each. @returns {Promise<Kind[]>} */
export async function loadKinds() {
  const api = await (await fetch("/openapi.json")).json();
  const operations = Object.entries(api.paths).flatMap(([path, item]) => (item.post ? [[path, item.post]] : []));
  return operations.map(([path, operation]) => {
    const media = operation.requestBody.content["application/json"];
    const name = media.schema.$ref.split("/").at(-1);
    const example = Object.values(media.examples ?? {})[0]?.value ?? {};
    return { type: name.replace("event.", ""), path, schema: api.components.schemas[name], example };
  });
}

/** Fill the form for a kind; the diagnosis is asked for elsewhere. @param {Kind} kind */
export function showFields({ schema, example }) {
  const names = Object.keys(schema.properties).filter((name) => name !== "diagnosis_id");
  find("kind-help").textContent = schema.description;
  find("fields").replaceChildren(
    ...names.map((name) => field(name, schema.properties[name], example[name], schema.required.includes(name))),
  );
}

function field(name, schema, example, required) {
  const id = `field-${name}`;
  const common = { id, name, required, "aria-describedby": `${id}-help` };
  const input =
    schema.type === "object"
      ? h("textarea", { ...common, rows: 5, spellcheck: false, value: JSON.stringify(example ?? {}, null, 1) })
      : h("input", { ...common, ...limits(schema), value: String(example ?? ""), autocomplete: "off" });
  if (schema.type === "object") input.addEventListener("input", () => input.setCustomValidity(complaint(input.value)));
  return h("div", { className: schema.type === "object" || schema.type === "string" ? "field wide" : "field" },
    h("label", { for: id }, name.replaceAll("_", " ")),
    input,
    h("p", { className: "help", id: `${id}-help` }, schema.description),
  );
}

function limits({ type, minimum, maximum }) {
  if (type === "string") return { type: "text" };
  const top = maximum > Number.MAX_SAFE_INTEGER ? "" : String(maximum ?? "");
  return { type: "number", step: type === "integer" ? "1" : "any", min: String(minimum ?? ""), max: top };
}

function complaint(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" && !Array.isArray(value) ? "" : "must be a JSON object: {…}";
  } catch {
    return "must be JSON";
  }
}

/** The body as JSON text: an id over 2**53 stays what was typed. @param {Kind} kind */
export function bodyOf({ schema }, diagnosis) {
  const parts = [...find("fields").querySelectorAll("input, textarea")].map((input) => {
    return `${JSON.stringify(input.name)}: ${jsonOf(schema.properties[input.name].type, input.value)}`;
  });
  return `{${[`"diagnosis_id": ${diagnosis}`, ...parts].join(", ")}}`;
}

function jsonOf(type, text) {
  if (type === "string") return JSON.stringify(text);
  if (type === "object" || /^-?\d+$/.test(text)) return text;
  return String(Number(text)); // ".5" is no JSON
}
