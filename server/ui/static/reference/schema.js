// JSON schemas as trees that open on demand, and examples of them.
import { html, useState } from "../core/html.js";
import { Tag } from "../core/parts.js";

const REFERENCE = "#/components/schemas/";
const DEEPEST = 5;
const MESSAGES = [{ role: "user", content: "Hello" }];

/** Bodies that answer on most servers; of other operations, an example is made of the schema. */
const EXAMPLES = {
  "post/v1/chat/completions": { model: "auto", messages: MESSAGES },
  "post/v1/completions": { model: "auto", prompt: "Once upon a time", max_tokens: 32 },
  "post/v1/responses": { model: "auto", input: "Hello" },
  "post/v1/messages": { model: "auto", max_tokens: 256, messages: MESSAGES },
  "post/v1/embeddings": { model: "auto", input: ["a locomotive", "a steam engine"] },
  "post/v1/rerank": { model: "auto", query: "trains", documents: ["A locomotive pulls.", "A cat sleeps."] },
  "post/v1/classify": { model: "auto", input: ["What a day!"], labels: ["glad", "sad"] },
  "post/v1/audio/speech": { model: "auto", input: "All aboard.", response_format: "mp3" },
  "post/v1/images/generations": { model: "auto", prompt: "A locomotive at dawn" },
  "post/v1/route": { model: "auto", messages: MESSAGES },
  "post/v1/outcomes": { trace: "the x-roundhouse-trace of an answer", accepted: true },
  "post/api/chat": { model: "auto", messages: MESSAGES },
};

export function resolved(schema, document) {
  if (!schema?.$ref) return schema ?? {};
  return document.components.schemas[schema.$ref.slice(REFERENCE.length)] ?? {};
}

/** A type in a few words. */
export function typeOf(schema = {}) {
  if (schema.$ref) return schema.$ref.slice(REFERENCE.length);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return [...new Set(several.map(typeOf))].join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  if (schema.type === "object" && typeof schema.additionalProperties === "object") return `object of ${typeOf(schema.additionalProperties)}`;
  if (schema.format === "binary") return "bytes";
  return schema.type ?? "anything";
}

/** The schemas of objects within a schema, which can be opened. */
function inner(schema, document) {
  if (schema.$ref) {
    const its = resolved(schema, document);
    return its.properties ? [[typeOf(schema), its]] : inner(its, document);
  }
  if (schema.properties) return [[schema.title ?? "object", schema]];
  if (schema.items) return inner(schema.items, document);
  if (typeof schema.additionalProperties === "object") return inner(schema.additionalProperties, document);
  return (schema.anyOf ?? schema.oneOf ?? []).flatMap((each) => inner(each, document));
}

export function Body({ schema, document }) {
  const objects = inner(schema, document);
  if (!objects.length) return html`<p>${typeOf(resolved(schema, document))}</p>`;
  if (objects.length === 1) return html`<${Properties} schema=${objects[0][1]} document=${document} />`;
  return objects.map(([name, its]) => html`<${Opened} name=${name} schema=${its} document=${document} />`);
}

function Opened({ name, schema, document }) {
  const [open, setOpen] = useState(false);
  return html`<details onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>${name}</summary>${open && html`<${Properties} schema=${schema} document=${document} />`}
  </details>`;
}

function boundsOf(schema) {
  return [schema, ...(schema.anyOf ?? [])].flatMap((part) => [
    range(part.minimum, part.maximum, ""),
    part.exclusiveMinimum !== undefined && `above ${part.exclusiveMinimum}`,
    range(part.minLength, part.maxLength, " characters"),
    range(part.minItems, part.maxItems, " entries"),
    part.pattern && `as ${part.pattern}`,
  ]).filter(Boolean).join(", ");
}

/** A range in words; bounds of 64 bits say nothing to a person. */
function range(least, most, unit) {
  const [low, high] = [least, most].map((each) => (Number.isSafeInteger(each) || !Number.isInteger(each) ? each : undefined));
  if (low === undefined && high === undefined) return null;
  if (high === undefined) return `at least ${low}${unit}`;
  return low === undefined ? `at most ${high}${unit}` : `${low} to ${high}${unit}`;
}

function Properties({ schema, document }) {
  const required = new Set(schema.required ?? []);
  const own = Object.entries(schema.properties ?? {}).sort(([one], [other]) => required.has(other) - required.has(one));
  return html`
    ${schema.description && html`<p class="hint">${schema.description}</p>`}
    <ul class="schema">${own.map(([name, its]) => html`<li>
      <code>${name}</code> <span class="hint">${typeOf(its)}</span> ${required.has(name) && html`<${Tag}>required<//>`}
      ${its["x-default"] !== undefined && html`<span class="hint"> default: ${JSON.stringify(its["x-default"])}</span>`}
      ${boundsOf(its) && html`<span class="hint"> ${boundsOf(its)}</span>`}
      ${its.description && html`<div class="hint">${its.description}</div>`}
      ${inner(its, document).map(([inside, schemaInside]) => html`<${Opened} name=${inside} schema=${schemaInside} document=${document} />`)}
    </li>`)}</ul>`;
}

/** A body with the fields that must be there. */
export function exampleOf(operation, schema, document) {
  return EXAMPLES[operation.id] ?? example(schema, document, 0);
}

function example(given, document, depth) {
  const schema = resolved(given, document);
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return schema.enum[0];
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return example(several.find((each) => each.type !== "null") ?? {}, document, depth);
  switch (schema.type) {
    case "object": {
      if (depth >= DEEPEST) return {};
      const required = new Set(schema.required ?? []);
      return Object.fromEntries(Object.entries(schema.properties ?? {}).filter(([name]) => required.has(name)).map(([name, its]) => [name, name === "model" ? "auto" : example(its, document, depth + 1)]));
    }
    case "array":
      return depth >= DEEPEST ? [] : [example(schema.items ?? {}, document, depth + 1)];
    case "integer":
    case "number":
      return schema.minimum ?? 1;
    case "boolean":
      return true;
    case "string":
      return "text";
    default:
      return null;
  }
}
