// The parts that pages are made of.
import { html, useCallback, useEffect, useRef, useState } from "./html.js";
import { key } from "./api.js";
import { Icon } from "./icons.js";
import { percent } from "./format.js";

/** Load something, again when `deps` change: {data, error, loading, reload}. */
export function useLoad(load, deps = []) {
  const [state, setState] = useState({ data: null, error: null, loading: true });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    setState((was) => ({ ...was, loading: true }));
    load(stop.signal).then(
      (data) => stop.signal.aborted || setState({ data, error: null, loading: false }),
      (error) => stop.signal.aborted || setState({ data: null, error, loading: false }),
    );
    return () => stop.abort();
  }, [...deps, turn]);
  const reload = useCallback(() => setTurn((last) => last + 1), []);
  return { ...state, reload };
}

/** Call `tick` every so many milliseconds while the page is visible. */
export function useEvery(milliseconds, tick) {
  const latest = useRef(tick);
  latest.current = tick;
  useEffect(() => {
    if (!milliseconds) return undefined;
    const timer = setInterval(() => document.hidden || latest.current(), milliseconds);
    return () => clearInterval(timer);
  }, [milliseconds]);
}

/** Run an action once at a time: [busy, run, error, clear]. */
export function useAction() {
  const [busy, setBusy] = useState(null);
  const [error, setError] = useState(null);
  const run = async (name, action) => {
    setBusy(name);
    setError(null);
    try {
      await action();
    } catch (raised) {
      if (raised.name !== "AbortError") setError(raised);
    } finally {
      setBusy(null);
    }
  };
  return [busy, run, error, () => setError(null)];
}

/** An error in words, with the way out where there is one. */
export function Problem({ error, onRetry, onClose }) {
  if (!error) return null;
  const forbidden = error.status === 403;
  return html`<div class="problem" role="alert">
    <div>
      ${forbidden && html`<strong>This key may not do that. </strong>`}${error.message}
      ${error.trace && html` <a href=${`#/traces/${error.trace}`}>Show the trace</a>`}
    </div>
    <div class="row">
      ${forbidden && html`<button type="button" class="small" onClick=${() => openKey()}><${Icon} name="key" /> Use another key</button>`}
      ${onRetry && html`<button type="button" class="small" onClick=${onRetry}><${Icon} name="retry" /> Try again</button>`}
      ${onClose && html`<button type="button" class="small quiet" aria-label="Close this message" onClick=${onClose}><${Icon} name="close" /></button>`}
    </div>
  </div>`;
}

/** Ask for another key: the shell shows the page for it. */
export const openKey = () => window.dispatchEvent(new CustomEvent("roundhouse:key"));

export const Empty = ({ title, children }) =>
  html`<div class="empty"><strong>${title}</strong><div>${children}</div></div>`;

export const Loading = ({ what = "Loading" }) => html`<div class="loading" role="status"><span class="spinner" />${what}…</div>`;

/** What was loaded, or its error, or the wait for it. */
export function Loaded({ from, children }) {
  if (from.error) return html`<${Problem} error=${from.error} onRetry=${from.reload} />`;
  if (from.data === null) return html`<${Loading} />`;
  return children(from.data);
}

export function Page({ title, actions, children, wide }) {
  return html`<div class=${wide ? "page wide" : "page"}>
    <header class="page-head"><h1>${title}</h1><div class="row">${actions}</div></header>
    ${children}
  </div>`;
}

export const Card = ({ title, actions, children, className = "" }) => html`<section class=${`card ${className}`}>
  ${(title || actions) && html`<header class="card-head"><h2>${title}</h2><div class="row">${actions}</div></header>`}
  ${children}
</section>`;

let fields = 0;

/** A labelled field: `children` is given the id that the label points to. */
export function Field({ label, hint, children, className = "" }) {
  const id = useRef(`field-${(fields += 1)}`).current;
  return html`<div class=${`field ${className}`}>
    <label for=${id}>${label}</label>
    ${children(id)}
    ${hint && html`<small>${hint}</small>`}
  </div>`;
}

export const Text = ({ label, hint, value, onInput, className, ...rest }) => html`<${Field} label=${label} hint=${hint} className=${className}>
  ${(id) => html`<input id=${id} value=${value} onInput=${(event) => onInput(event.target.value)} ...${rest} />`}
<//>`;

export const Area = ({ label, hint, value, onInput, rows = 3, ...rest }) => html`<${Field} label=${label} hint=${hint}>
  ${(id) => html`<textarea id=${id} rows=${rows} value=${value} onInput=${(event) => onInput(event.target.value)} ...${rest}></textarea>`}
<//>`;

/** `options` are [value, text] pairs, or {label, options} for groups of them. */
export function Select({ label, value, onInput, options, hint, className, ...rest }) {
  const option = ([each, text]) => html`<option value=${each} selected=${each === value}>${text}</option>`;
  return html`<${Field} label=${label} hint=${hint} className=${className}>
    ${(id) => html`<select id=${id} value=${value} onChange=${(event) => onInput(event.target.value)} ...${rest}>
      ${options.map((each) => (Array.isArray(each) ? option(each) : html`<optgroup label=${each.label}>${each.options.map(option)}</optgroup>`))}
    </select>`}
  <//>`;
}

export const Check = ({ label, checked, onInput }) => html`<label class="check">
  <input type="checkbox" checked=${checked} onChange=${(event) => onInput(event.target.checked)} /> ${label}
</label>`;

/** A bar for a part of a whole, told in words by its `text`. */
export function Meter({ label, part, whole, text, className = "" }) {
  const share = percent(part, whole);
  return html`<div class=${`meter ${className}`}>
    <div class="meter-text"><span>${label}</span><span>${text}</span></div>
    <div class="bar" role="meter" aria-label=${label} aria-valuenow=${Math.round(share)} aria-valuemin="0" aria-valuemax="100" aria-valuetext=${text}>
      <div class=${share > 90 ? "fill full" : "fill"} style=${{ width: `${share}%` }} />
    </div>
  </div>`;
}

export const Tag = ({ kind = "", children }) => html`<span class=${`tag ${kind}`}>${children}</span>`;

/** A table that scrolls by itself where the page is too narrow; `columns` are [heading, class] pairs. */
export function Table({ label, columns, children }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}>
    <table>
      <thead><tr>${columns.map(([heading, kind]) => html`<th scope="col" class=${kind}>${heading || html`<span class="hidden">Actions</span>`}</th>`)}</tr></thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;
}

/** A dialog of the browser's own: focus stays in it, and Escape closes it. */
export function Dialog({ title, onClose, children }) {
  const element = useRef(null);
  useEffect(() => {
    element.current.showModal();
  }, []);
  return html`<dialog ref=${element} aria-label=${title} onClose=${onClose}>
    <header class="card-head"><h2>${title}</h2>
      <button type="button" class="quiet small" aria-label="Close" onClick=${() => element.current.close()}><${Icon} name="close" /></button>
    </header>
    ${children}
  </dialog>`;
}

export function KeyForm({ error, onDone }) {
  const [value, setValue] = useState("");
  const [keep, setKeep] = useState(key.kept());
  const refused = error && key.get() !== "";
  const submit = (event) => {
    event.preventDefault();
    if (!value.trim()) return;
    key.set(value, keep);
    onDone();
  };
  return html`<form class="key-form card" onSubmit=${submit}>
    <h1>${refused ? "The key was refused" : "A key, please"}</h1>
    <p>${error ? error.message : "Requests of this tab will be sent with the key that you enter here."}</p>
    <${Text} label="API key" type="password" autocomplete="off" spellcheck=${false} value=${value} onInput=${setValue} autofocus placeholder="rh-…" />
    <${Check} label="Keep it in this browser; without, it is forgotten with the tab" checked=${keep} onInput=${setKeep} />
    <div class="row">
      <button type="submit" class="primary">Use this key</button>
      ${key.get() && html`<button type="button" onClick=${() => { key.forget(); onDone(); }}>Forget the present key</button>`}
      ${!error && html`<button type="button" class="quiet" onClick=${onDone}>Cancel</button>`}
    </div>
    <p class="hint">The server's operator makes keys: <code>roundhouse keys create NAME</code>, with <code>--admin</code> for models, keys and logs.</p>
  </form>`;
}
