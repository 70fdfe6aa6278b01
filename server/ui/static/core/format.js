// Figures as people read them.

const LOCALE = "en";

export const number = (value) => (value == null ? "–" : new Intl.NumberFormat(LOCALE).format(value));

export function compact(value) {
  if (value == null) return "–";
  return new Intl.NumberFormat(LOCALE, { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

/** Dollars: cents for sums, four significant digits for the fractions of a cent that a request costs. */
export function dollars(value) {
  if (value == null) return "unknown";
  const amount = Number(value);
  if (amount === 0) return "free";
  if (amount >= 1) return `$${amount.toFixed(2)}`;
  if (amount < 0.0000001) return "< $0.0000001";
  const digits = Math.min(9, Math.max(2, 1 - Math.floor(Math.log10(amount)) + 1));
  return `$${amount.toFixed(digits)}`;
}

/** A sum of dollars, where nothing spent is $0. */
export const sum = (value) => (Number(value ?? 0) === 0 ? "$0.00" : dollars(value));

/** Dollars for a million tokens, as prices of models are given. */
export function perMillion(value) {
  if (value == null) return "unknown";
  return value === 0 ? "free" : `$${value < 0.1 ? value.toFixed(3) : value.toFixed(2)}`;
}

export function bytes(value) {
  if (value == null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let amount = value;
  let unit = 0;
  while (amount >= 1000 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${amount.toFixed(amount < 10 && unit > 1 ? 1 : 0)} ${units[unit]}`;
}

export function seconds(value) {
  if (value == null) return "–";
  if (value < 0.0995) return `${Math.max(1, Math.round(value * 1000))} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
}

export const percent = (part, whole) => (whole ? Math.min(100, (100 * part) / whole) : 0);

export function time(unix) {
  const at = new Date(unix * 1000);
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString(LOCALE, { hour12: false }) : at.toLocaleString(LOCALE, { hour12: false });
}

export const day = (unix) => (unix == null ? "never" : new Date(unix * 1000).toISOString().slice(0, 10));

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** A name for people: "tool_use" is "tool use". */
export const words = (name) => (name ?? "").replaceAll("_", " ");
