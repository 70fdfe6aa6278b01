// Images: draw pictures of a text, and change pictures.
import { html, useRef, useState } from "../core/html.js";
import { call, events } from "../core/api.js";
import { seconds } from "../core/format.js";
import { Icon } from "../core/icons.js";
import { ModelPicker, useModels, withCapability } from "../core/models.js";
import { Area, Card, Empty, Loaded, Page, Problem, Select, Text, useAction } from "../core/parts.js";

const SIZES = ["auto", "512x512", "768x768", "1024x1024", "1536x1024", "1024x1536"];

/** The pictures of this tab, newest first. */
let drawn = [];

export default function Images() {
  const models = useModels();
  return html`<${Page} title="Images" wide>
    <${Loaded} from=${models}>${(rows) =>
      withCapability(rows, "image").length
        ? html`<${Draw} models=${rows} />`
        : html`<${Empty} title="No model draws here">
            <p>Set a provider's key (<code>OPENAI_API_KEY</code> has models that draw), or pull a diffusion model and its engine:</p>
            <p><code>pip install 'roundhouse-server[images]'</code></p>
            <p>The <a href="#/models">models page</a> tells what each model lacks.</p>
          <//>`}
    <//>
  <//>`;
}

/** Ask for new pictures, or with files for changed ones. */
function ask(body, files, mask, signal) {
  if (!files.length) return call("POST", "v1/images/generations", { body, signal });
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) form.append(name, value);
  for (const file of files) form.append("image[]", file);
  if (mask) form.append("mask", mask);
  return call("POST", "v1/images/edits", { form, signal });
}

function Draw({ models }) {
  const [form, setForm] = useState({ prompt: "", model: "auto", size: "auto", n: "1", seed: "", negative: "" });
  const [pictures, setPictures] = useState(drawn);
  const [busy, run, error] = useAction();
  const stop = useRef(null);
  const sources = useRef(null), mask = useRef(null);
  drawn = pictures;
  const set = (name) => (value) => setForm({ ...form, [name]: value });
  const submit = (event) => {
    event.preventDefault();
    run("draw", async () => {
      const began = performance.now();
      stop.current = new AbortController();
      const body = { model: form.model, prompt: form.prompt, n: Number(form.n), stream: true };
      if (form.size !== "auto") body.size = form.size;
      if (form.seed !== "") body.seed = Number(form.seed);
      if (form.negative.trim()) body.negative_prompt = form.negative;
      if (mask.current.files.length && !sources.current.files.length) throw new Error("A mask needs a picture to change.");
      const response = await ask(body, sources.current.files, mask.current.files[0], stop.current.signal);
      const head = (name) => response.headers.get(`x-roundhouse-${name}`);
      const told = { model: head("model"), reason: head("reason"), dropped: head("dropped"), notice: head("notice") };
      for await (const item of events(response)) {
        if (!item.type.endsWith(".completed") && !item.type.endsWith(".partial_image")) continue;
        const one = { ...told, prompt: form.prompt, seed: item.seed, took: (performance.now() - began) / 1000, partial: item.type.endsWith("image"),
          url: `data:image/${item.output_format ?? "png"};base64,${item.b64_json}` };
        setPictures((before) => [one, ...before.filter((each) => !each.partial)]);
      }
    });
  };
  return html`
    <form class="card" onSubmit=${submit}>
      <${Area} label="Picture of" rows="3" value=${form.prompt} onInput=${set("prompt")} placeholder="A steam locomotive on a turntable at dawn, watercolour" />
      <div class="grid">
        <${ModelPicker} models=${models} capability="image" value=${form.model} onInput=${set("model")} />
        <${Select} label="Size" value=${form.size} onInput=${set("size")} options=${SIZES.map((each) => [each, each])} />
        <${Text} label="Pictures" type="number" min="1" max="10" value=${form.n} onInput=${set("n")} />
        <${Text} label="Seed" type="number" placeholder="any" value=${form.seed} onInput=${set("seed")} />
      </div>
      <div class="grid">
        <div class="field"><label for="image-sources">Pictures to change</label>
          <input id="image-sources" ref=${sources} type="file" accept="image/png,image/jpeg,image/webp" multiple /></div>
        <div class="field"><label for="image-mask">Mask: a PNG, transparent where the first picture changes</label>
          <input id="image-mask" ref=${mask} type="file" accept="image/png" /></div>
      </div>
      <${Text} label="Not in it" value=${form.negative} onInput=${set("negative")} placeholder="text, people" />
      <div class="row">
        <button type="submit" class="primary" disabled=${busy || !form.prompt.trim()}><${Icon} name="images" /> ${busy ? "Drawing…" : "Draw"}</button>
        ${busy && html`<button type="button" onClick=${() => stop.current?.abort()}><${Icon} name="stop" /> Stop</button>`}
      </div>
      <${Problem} error=${error} />
    </form>
    <div class="gallery">${pictures.map((each) => html`<figure class="card">
      <img src=${each.url} alt=${each.prompt} />
      <figcaption>${each.prompt}<div class="hint">${[each.model, each.reason, seconds(each.took), each.seed != null && `seed ${each.seed}`].filter(Boolean).join(" · ")}</div>
        ${each.dropped && html`<div class="hint">not taken: ${each.dropped}</div>`}${each.notice && html`<div class="hint">${each.notice}</div>`}
        <a class="button small" href=${each.url} download="picture.png"><${Icon} name="download" /> Save</a></figcaption>
    </figure>`)}</div>`;
}
