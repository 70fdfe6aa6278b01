// The list of models, as pickers need it.
import { html, useEffect } from "./html.js";
import { getJson } from "./api.js";
import { Select, useLoad } from "./parts.js";

export const MODES = [
  ["auto", "auto: the router chooses"],
  ["auto:fast", "auto:fast"],
  ["auto:best", "auto:best"],
  ["auto:cheap", "auto:cheap"],
  ["auto:local", "auto:local"],
];

export const useModels = () => useLoad(async (signal) => (await getJson("v1/models", { signal })).data);

/** The models that have a capability, by id; rows of the router are left out. */
export const withCapability = (models, capability) =>
  models.filter((row) => !row.router && row.available && row.capabilities.includes(capability));

export function ModelPicker({ label = "Model", models, capability, value, onInput, auto = true, className, ...rest }) {
  const usable = withCapability(models ?? [], capability);
  const option = (row) => [row.id, row.id];
  const groups = [
    { label: "On this machine", options: usable.filter((row) => row.local).map(option) },
    { label: "At providers", options: usable.filter((row) => !row.local).map(option) },
  ].filter((group) => group.options.length);
  const modes = capability === "chat" ? MODES : MODES.slice(0, 1);
  const options = auto ? [{ label: "The router chooses", options: modes }, ...groups] : groups;
  const known = options.flatMap((group) => group.options.map(([id]) => id));
  useEffect(() => {
    if (models && known.length && !known.includes(value)) onInput(known[0]);
  }, [models]);
  return html`<${Select} label=${label} className=${className} value=${value} onInput=${onInput} options=${options} ...${rest} />`;
}
