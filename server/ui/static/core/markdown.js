// Markdown of answers as elements. marked makes the tokens, and every text among them becomes a text node: no HTML of
// a model reaches the page, and neither do its pictures from elsewhere.
import { Lexer } from "../vendor/marked.js";
import { html, useState } from "./html.js";
import { Icon } from "./icons.js";

const SAFE_LINK = /^(https?:|mailto:)/i;

export function Markdown({ text }) {
  return html`<div class="markdown">${blocks(new Lexer({ gfm: true }).lex(text))}</div>`;
}

const blocks = (tokens) => tokens.map(block);
const inline = (tokens, text) => (tokens ? tokens.map(span) : decoded(text));

function block(token) {
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading":
      return heading(token);
    case "paragraph":
      return html`<p>${inline(token.tokens, token.text)}</p>`;
    case "text":
      return inline(token.tokens, token.text);
    case "code":
      return html`<${Code} text=${token.text} language=${(token.lang ?? "").split(/\s/)[0]} />`;
    case "blockquote":
      return html`<blockquote>${blocks(token.tokens)}</blockquote>`;
    case "list":
      return list(token);
    case "table":
      return table(token);
    case "hr":
      return html`<hr />`;
    default:
      return html`<p>${token.raw}</p>`;
  }
}

// The page has its own h1 and h2, so an answer's headings begin below them.
function heading(token) {
  const tag = `h${Math.min(6, token.depth + 2)}`;
  return html`<${tag}>${inline(token.tokens, token.text)}<//>`;
}

function list(token) {
  const items = token.items.map(
    (item) => html`<li class=${item.task ? "task" : null}>
      ${item.task && html`<input type="checkbox" checked=${item.checked} disabled aria-label="done" />`}
      ${blocks(item.tokens.filter((part) => part.type !== "checkbox"))}
    </li>`,
  );
  return token.ordered ? html`<ol start=${token.start || 1}>${items}</ol>` : html`<ul>${items}</ul>`;
}

function table(token) {
  const cell = (tag) => (each) => html`<${tag} align=${each.align}>${inline(each.tokens, each.text)}<//>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Table">
    <table>
      <thead><tr>${token.header.map(cell("th"))}</tr></thead>
      <tbody>${token.rows.map((row) => html`<tr>${row.map(cell("td"))}</tr>`)}</tbody>
    </table>
  </div>`;
}

function span(token) {
  switch (token.type) {
    case "strong":
      return html`<strong>${inline(token.tokens, token.text)}</strong>`;
    case "em":
      return html`<em>${inline(token.tokens, token.text)}</em>`;
    case "del":
      return html`<del>${inline(token.tokens, token.text)}</del>`;
    case "codespan":
      return html`<code>${token.text}</code>`;
    case "br":
      return html`<br />`;
    case "link":
      return link(token.href, inline(token.tokens, token.text));
    case "image":
      return link(token.href, token.text || "picture");
    case "escape":
      return token.text;
    case "text":
      return inline(token.tokens, token.text);
    default:
      return token.raw;
  }
}

const link = (href, content) => html`<${Link} href=${href}>${content}<//>`;

/** A link of a model: to the web alone, and only if a person follows it. */
export function Link({ href, children }) {
  if (!SAFE_LINK.test(href)) return children;
  return html`<a href=${href} target="_blank" rel="noopener noreferrer">${children}</a>`;
}

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** A text whose character references are resolved, as Markdown has them. */
function decoded(text) {
  return text.replace(/&(#x?[0-9a-f]{1,6}|[a-z]+);/gi, (whole, name) => {
    if (name[0] !== "#") return ENTITIES[name.toLowerCase()] ?? whole;
    const point = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
    return point > 0 && point <= 0x10ffff ? String.fromCodePoint(point) : whole;
  });
}

export function Code({ text, language }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<div class="code">
    <div class="code-bar">
      <span>${language || "text"}</span>
      <button type="button" class="quiet small" onClick=${copy}>
        <${Icon} name=${copied ? "check" : "copy"} /> ${copied ? "Copied" : "Copy"}
      </button>
    </div>
    <pre tabindex="0"><code>${text}</code></pre>
  </div>`;
}
