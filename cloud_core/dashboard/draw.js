// What every part of the page draws with. Text only ever enters the page as text nodes: what others report is never markup.

const TONES = {
  online: "good", stale: "warn", lost: "bad", never: "idle",
  ready: "good", failed: "bad", refused: "bad", applied: "good", converging: "warn", none: "idle",
  queued: "idle", "in progress": "warn", completed: "good", cancelled: "idle",
};
const TEN_SECONDS = 10;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("data-") || key.startsWith("aria-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const state = (text) => element("span", { className: "state", "data-tone": TONES[text] ?? "warn" }, text);
export const percent = (share) => (share === undefined || share === null ? "–" : `${Math.round(share * 100)} %`);
export const sum = (numbers) => numbers.reduce((total, n) => total + n, 0);
export const duration = (milliseconds) => (milliseconds === undefined || milliseconds === null ? "–" : `${Number(milliseconds.toPrecision(3))} ms`);

export function bytes(count) {
  if (count === undefined || count === null) return "–";
  for (const unit of ["B", "kB", "MB"]) {
    if (count < 1000) return `${Math.round(count)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} GB`;
}

export function ago(at) {
  if (!at) return "never";
  const seconds = Math.max(0, Date.now() / 1000 - at);
  if (seconds < TEN_SECONDS) return "now";
  if (seconds < 120) return `${Math.round(seconds)} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} d ago`;
}
