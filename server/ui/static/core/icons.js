// Line icons of 24 by 24 units, drawn in the colour of the text beside them.
import { html } from "./html.js";

const PATHS = {
  chat: "M4 5h16v11H9l-5 4z",
  models: "M4 7l8-4 8 4-8 4zM4 12l8 4 8-4M4 17l8 4 8-4",
  route: "M5 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM19 9a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM7 17h8a4 4 0 0 0 0-8H9a4 4 0 0 1 0-4h8",
  talk: "M4 5h11v8H9l-5 4zM18 8h2v8l2 3h-3l-3-3h-6",
  voice: "M12 3a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3zM6 11a6 6 0 0 0 12 0M12 17v4M9 21h6",
  images: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
  usage: "M5 20V10M12 20V4M19 20v-7",
  traces: "M4 6h9M4 12h13M4 18h6M17 6h3M14 18h6",
  logs: "M6 3h9l4 4v14H6zM9 12h7M9 16h7M9 8h3",
  book: "M5 4h6a2 2 0 0 1 2 2v14a2 2 0 0 0-2-2H5zM19 4h-4a2 2 0 0 0-2 2M19 4v14h-4a2 2 0 0 0-2 2",
  key: "M8 18a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM11 11l9-8M16 7l3 3",
  send: "M5 12h14M13 6l6 6-6 6",
  stop: "M7 7h10v10H7z",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 13l4 4 10-10",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  up: "M7 11v9H4v-9zM7 11l4-8c2 0 2 2 2 3l-1 4h7l-2 10H7",
  down: "M7 13V4H4v9zM7 13l4 8c2 0 2-2 2-3l-1-4h7L17 4H7",
  retry: "M20 12a8 8 0 1 1-2.5-5.8M20 3v5h-5",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4",
  compare: "M12 3v18M4 6h5v12H4zM15 6h5v12h-5z",
  tune: "M4 7h10M18 7h2M4 17h2M10 17h10M16 5v4M8 15v4",
  menu: "M4 6h16M4 12h16M4 18h16",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16 16l5 5",
  play: "M8 5l11 7-11 7z",
  record: "M12 18a6 6 0 1 0 0-12 6 6 0 0 0 0 12z",
  tool: "M14 7a4 4 0 0 1 5-4l-2 3 1 1 3-2a4 4 0 0 1-5 5l-8 9-3-3z",
  star: "M12 4l2.4 5 5.6.7-4 3.9 1 5.4-5-2.7-5 2.7 1-5.4-4-3.9 5.6-.7z",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M18.4 5.6L17 7M7 17l-1.4 1.4",
  moon: "M20 14a8 8 0 1 1-10-10 6.5 6.5 0 0 0 10 10z",
};

export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}

/** The sign of the project: a roundhouse from above, its turntable and its stalls. */
export function Logo() {
  return html`<svg class="logo" viewBox="0 0 32 32" aria-hidden="true">
    <path class="stalls" d="M3 20a13 13 0 1 1 26 0M16 20L16 7M16 20L9.5 8.7M16 20L22.5 8.7M16 20L4.7 13.5M16 20L27.3 13.5" />
    <circle class="table" cx="16" cy="20" r="5.5" />
    <path class="track" d="M10.5 20h11" />
  </svg>`;
}
