// The fleet: tiles, devices, and the latest events.

import { ago, element, percent, state, sum } from "./draw.js";

const generation = (order) => (order ? `${order[0]}.${order[1]}` : "–");
const milliseconds = (seconds) => (seconds === undefined || seconds === null ? "–" : `${(seconds * 1000).toPrecision(3)} ms`);

function answered(telemetry) {
  if (!telemetry) return ["–"];
  const parts = Object.fromEntries(Object.entries(telemetry.where).map(([where, count]) => [where === "none" ? "refused" : where, count]));
  const total = sum(Object.values(parts));
  if (!total) return ["–"];
  const bar = element("span", { className: "split" });
  for (const [where, count] of Object.entries(parts)) {
    const piece = element("i", { className: where, title: `${where}: ${count}` });
    piece.style.width = `${(100 * count) / total}%`;
    bar.append(piece);
  }
  return [Object.entries(parts).map(([where, count]) => `${where} ${count}`).join(" · "), bar];
}

function models(reported) {
  const shown = (reported?.models ?? []).map((model) =>
    element(
      "span",
      { className: "model", title: model.error ?? model.digest },
      `${model.name}@${model.version} `,
      element("small", {}, model.variant ?? ""),
      " ",
      state(model.state),
      model.progress !== null && model.progress !== undefined && model.state !== "ready" ? ` ${percent(model.progress)}` : null,
    ),
  );
  return shown.length ? shown : ["–"];
}

function row(device) {
  const { reported, telemetry } = device;
  const order = reported?.applied ?? null;
  const cells = [
    element("td", {}, element("b", {}, device.device), element("br"), element("small", {}, device.agent_version ?? "")),
    element("td", {}, state(device.presence.state)),
    element(
      "td",
      {},
      `${generation(order)} `,
      state(reported?.convergence ?? "none"),
      reported?.error ? element("div", { className: "bad" }, reported.error) : null,
      reported?.step && reported.convergence === "converging" ? element("div", {}, element("small", {}, reported.step)) : null,
    ),
    element("td", {}, ...models(reported)),
    element("td", {}, ...answered(telemetry)),
    element("td", { className: "number" }, telemetry ? telemetry.rate.toFixed(1) : "–"),
    element("td", { className: "number" }, milliseconds(telemetry?.p99)),
    element("td", { className: "number" }, percent(telemetry?.host.cpu)),
    element("td", { className: "number" }, percent(telemetry?.host.memory)),
    element("td", {}, ago(device.last_seen)),
  ];
  return element("tr", { "data-device": device.device }, ...cells);
}

export function drawDevices(body, fleet) {
  body.replaceChildren(...fleet.map(row));
}

export function drawTiles(section, fleet) {
  const online = fleet.filter((device) => device.presence.state === "online").length;
  const applied = fleet.filter((device) => device.reported?.convergence === "applied").length;
  const telemetry = fleet.map((device) => device.telemetry).filter(Boolean);
  const local = sum(telemetry.map((t) => t.where.local ?? 0));
  const cloud = sum(telemetry.map((t) => t.where.cloud ?? 0));
  const tile = (value, text) => element("div", { className: "tile" }, element("b", {}, value), element("span", {}, text));
  section.replaceChildren(
    tile(`${online} / ${fleet.length}`, "devices online"),
    tile(`${applied} / ${fleet.length}`, "at their newest generation"),
    tile(sum(telemetry.map((t) => t.rate)).toFixed(1), "requests per second"),
    tile(local + cloud ? percent(cloud / (local + cloud)) : "–", "answered by the cloud"),
    tile(String(sum(telemetry.map((t) => t.shed))), "refused when full"),
  );
}

const KEPT = 100;

// Samples come all the time and are drawn as levels; the list is for what a person would call news.
const NO_NEWS = new Set(["telemetry", "progress"]);
const nameOf = (event) => (event.resource === "imports" && event.data ? `${event.data.model}@${event.data.version}` : event.name);

export function drawEvent(list, event) {
  if (NO_NEWS.has(event.kind)) return;
  const at = new Date(event.at * 1000);
  list.prepend(
    element("li", {}, element("time", { dateTime: at.toISOString() }, at.toLocaleTimeString()), `${event.resource}/${nameOf(event)} ${event.kind}`),
  );
  while (list.children.length > KEPT) list.lastChild.remove();
}
