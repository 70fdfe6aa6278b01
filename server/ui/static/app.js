// The shell of the console: navigation, the key, and one page at a time, whose module is fetched when it is opened.
import { html, render, useEffect, useRef, useState } from "./core/html.js";
import { call, key } from "./core/api.js";
import { Icon, Logo } from "./core/icons.js";
import { KeyForm, Loading, Problem } from "./core/parts.js";

const PAGES = [
  ["chat", "Chat", () => import("./pages/chat.js")],
  ["models", "Models", () => import("./pages/models.js")],
  ["route", "Route", () => import("./pages/route.js")],
  ["talk", "Talk", () => import("./pages/talk.js")],
  ["voice", "Voice", () => import("./pages/voice.js")],
  ["images", "Images", () => import("./pages/images.js")],
  ["usage", "Usage", () => import("./pages/usage.js")],
  ["traces", "Traces", () => import("./pages/traces.js")],
  ["logs", "Logs", () => import("./pages/logs.js")],
];
const THEME = "roundhouse-theme";

/** The page and the rest of the address: "#/traces/abc" is ["traces", "abc"]. */
function place() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const known = PAGES.some(([id]) => id === name);
  return [known ? name : "chat", known ? decodeURIComponent(rest.join("/")) : ""];
}

function useTheme() {
  const [theme, setTheme] = useState(localStorage.getItem(THEME));
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
  }, [theme]);
  const toggle = () => {
    const next = dark ? "light" : "dark";
    localStorage.setItem(THEME, next);
    setTheme(next);
  };
  return [dark, toggle];
}

function App() {
  const [[name, rest], setPlace] = useState(place);
  const [open, setOpen] = useState(false);
  const [asking, setAsking] = useState(null);
  const [turn, setTurn] = useState(0);
  const [dark, toggleTheme] = useTheme();
  const main = useRef(null);

  useEffect(() => {
    const move = () => {
      setPlace(place());
      setOpen(false);
      main.current?.focus();
    };
    const ask = () => setAsking({ error: null });
    addEventListener("hashchange", move);
    addEventListener("roundhouse:key", ask);
    const ignore = key.watch((error) => error && setAsking({ error }));
    return () => {
      removeEventListener("hashchange", move);
      removeEventListener("roundhouse:key", ask);
      ignore();
    };
  }, []);
  useEffect(() => {
    document.title = `${PAGES.find(([id]) => id === name)[1]} · Roundhouse`;
  }, [name]);

  const done = () => {
    setAsking(null);
    setTurn((last) => last + 1);
  };
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); main.current.focus(); }}>Skip to the page</a>
    <header class="top">
      <button type="button" class="quiet" aria-label="Menu" aria-expanded=${open} onClick=${() => setOpen(!open)}><${Icon} name="menu" /></button>
      <a class="brand" href="#/chat"><${Logo} /> Roundhouse</a>
    </header>
    <nav class=${open ? "side open" : "side"} aria-label="Pages">
      <a class="brand" href="#/chat"><${Logo} /> Roundhouse</a>
      ${PAGES.map(([id, title]) => html`<a href=${`#/${id}`} aria-current=${id === name ? "page" : null}><${Icon} name=${id} /> ${title}</a>`)}
      <span class="space"></span>
      <a href="../docs"><${Icon} name="book" /> API reference</a>
      <button type="button" onClick=${() => setAsking({ error: null })}><${Icon} name="key" /> ${key.get() ? "Change the key" : "Use a key"}</button>
      <button type="button" onClick=${toggleTheme}><${Icon} name=${dark ? "sun" : "moon"} /> ${dark ? "Light" : "Dark"}</button>
      <${Version} key=${turn} />
    </nav>
    ${open && html`<div class="shade" onClick=${() => setOpen(false)}></div>`}
    <main id="main" ref=${main} tabindex="-1">
      ${asking
        ? html`<${KeyForm} error=${asking.error} onDone=${done} />`
        : html`<${Lazy} key=${`${name} ${turn}`} name=${name} rest=${rest} />`}
    </main>`;
}

function Lazy({ name, rest }) {
  const [page, setPage] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    PAGES.find(([id]) => id === name)[2]().then((module) => setPage(() => module.default), setError);
  }, []);
  if (error) return html`<${Problem} error=${{ message: `The page could not be loaded: ${error.message}` }} onRetry=${() => location.reload()} />`;
  return page ? html`<${page} rest=${rest} />` : html`<${Loading} />`;
}

function Version() {
  const [text, setText] = useState("");
  useEffect(() => {
    call("GET", "version").then((answer) => answer.json()).then(({ version }) => setText(`Version ${version}`), () => {});
  }, []);
  return html`<small class="version">${text}</small>`;
}

render(html`<${App} />`, document.getElementById("app"));
