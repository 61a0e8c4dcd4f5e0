// Models: imports under way or failed, and every version with its card.

import { models as allModels, version as versionDetail, versions as versionsOf } from "./api.js";
import { ago, bytes, duration, element, percent, state } from "./draw.js";

const LIVE = new Set(["queued", "in_progress"]);
const SHARES = new Set(["labels", "entities", "relations", "texts", "tags", "next_tokens"]);
const BATCH = "batch_";
const KEPT_FAILURES = 5;

const words = (name) => name.replaceAll("_", " ");
const keyOf = (one) => `${one.model}@${one.version}`;

function importCard(one) {
  const live = LIVE.has(one.state);
  const reason = one.error ? element("p", { className: "reason" }, one.error.detail) : null;
  const allowed = one.error?.allowed && !one.error.detail.includes(one.error.allowed) ? element("p", {}, `allowed: ${one.error.allowed}`) : null;
  const bar = live ? element("progress", { max: 1, value: one.done, "aria-label": `progress of ${keyOf(one)}` }) : null;
  const step = live ? element("p", {}, element("b", {}, percent(one.done)), ` ${words(one.step)} `, element("small", {}, one.detail)) : null;
  return element(
    "article",
    { className: "card", "data-import": one.id, "data-state": one.state },
    element("h3", {}, keyOf(one), " ", state(words(one.state))),
    element("p", {}, element("small", {}, `${one.source} · ${one.variants.join(", ")} · ${one.requested_by} · ${ago(one.created_at)}`)),
    bar,
    step,
    reason,
    allowed,
  );
}

// A failure that was followed by another try of the same version is no news any more.
function worthShowing(imports) {
  const seen = new Set();
  const newest = imports.filter((one) => !seen.has(keyOf(one)) && seen.add(keyOf(one)));
  const failed = newest.filter((one) => one.state === "failed").slice(0, KEPT_FAILURES);
  return [...imports.filter((one) => LIVE.has(one.state)).reverse(), ...failed];
}

const latencies = (measured) =>
  Object.entries(measured)
    .map(([name, value]) => [/^ms_(\d+)x(\d+)$/.exec(name), value])
    .filter(([size]) => size)
    .sort(([a], [b]) => a[1] * a[2] - b[1] * b[2])
    .map(([size, value]) => `${size[1]}×${size[2]}: ${duration(value)}`);

const figure = (name, value) => `${words(name)} ${SHARES.has(name.replace(/^source_/, "")) ? `${(value * 100).toFixed(1)} %` : Number(value.toPrecision(6))}`;
const agreement = (figures) => Object.entries(figures).filter(([name]) => !name.startsWith(BATCH)).map(([name, value]) => figure(name, value));
const inBatches = (figures) => Object.entries(figures).filter(([name]) => name.startsWith(BATCH)).map(([name, value]) => figure(name.slice(BATCH.length), value));

const lines = (texts) => (texts.length ? texts.map((text) => element("div", {}, text)) : ["–"]);

function variantRow(variant, sizes) {
  const size = variant.files.reduce((total, path) => total + (sizes.get(path) ?? 0), 0);
  const memory = variant.measured.memory_bytes ?? variant.requirements.memory_bytes;
  return element(
    "tr",
    {},
    element("td", {}, element("b", {}, variant.name), element("br"), element("small", {}, variant.runtime)),
    element("td", {}, variant.precision),
    element("td", { className: "number" }, bytes(size)),
    element("td", { className: "number" }, memory ? bytes(memory) : "–"),
    element("td", { className: "number" }, duration(variant.measured.load_ms)),
    element("td", {}, ...lines(latencies(variant.measured))),
    element(
      "td",
      {},
      ...lines(agreement(variant.agreement)),
      variant.accepted_drift ? element("div", { className: "drift" }, `let in below the bar: ${variant.accepted_drift}`) : null,
    ),
    element(
      "td",
      {},
      variant.batch_invariant ? "same answer in any batch" : element("span", { className: "drift" }, "depends on its batch"),
      ...inBatches(variant.agreement).map((text) => element("div", {}, element("small", {}, text))),
    ),
  );
}

function variantTable(manifest) {
  const sizes = new Map(manifest.files.map((file) => [file.path, file.size]));
  const titles = [["Variant"], ["Precision"], ["Size", 1], ["Memory", 1], ["Loads in", 1], ["Latency (rows × tokens)"], ["Golden set"], ["Batches"]];
  const head = titles.map(([text, number]) => element("th", { scope: "col", className: number ? "number" : "" }, text));
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...manifest.variants.map((variant) => variantRow(variant, sizes))),
  );
}

function cardOf(detail) {
  // The API leaves nothing out, but a manifest of an older program may lack what was added since.
  const manifest = detail.manifest;
  const variants = manifest.variants.map((variant) => ({ measured: {}, agreement: {}, batch_invariant: true, requirements: {}, ...variant }));
  const facts = [
    ...Object.entries(manifest.source ?? {}).map(([name, value]) => [words(name), value]),
    ["labels", (manifest.labels ?? []).join(", ")],
    ["digest", detail.digest],
  ].filter(([, value]) => value);
  const list = element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  return [list, variantTable({ ...manifest, variants })];
}

export class Models {
  constructor(places) {
    this.places = places;
    this.cards = new Map(); // by digest: a version never changes
    this.open = new Map(); // by version, where a person opened or closed it
    this.drawn = "";
  }

  drawImports(imports) {
    const shown = worthShowing(imports);
    this.places.imports.replaceChildren(...shown.map(importCard));
    this.places.noImports.hidden = shown.length > 0;
  }

  async load() {
    const found = await allModels();
    const versions = await Promise.all(found.map((model) => versionsOf(model.name)));
    const text = JSON.stringify([found, versions]);
    if (text === this.drawn) return;
    const sections = found.map((model, i) => this.section(model, [...versions[i]].reverse()));
    this.places.models.replaceChildren(...sections);
    this.places.noModels.hidden = found.length > 0;
    this.drawn = text;
  }

  section(model, versions) {
    return element(
      "article",
      { className: "card", "data-model": model.name },
      element("h3", {}, model.name),
      model.description ? element("p", {}, model.description) : null,
      ...versions.map((version, i) => this.version(version, i === 0)),
      versions.length ? null : element("p", {}, element("small", {}, "no version")),
    );
  }

  version(version, isNewest) {
    const key = keyOf(version);
    const body = element("div", { className: "version" });
    const summary = element(
      "summary",
      {},
      element("b", {}, version.version),
      ` ${version.task} · ${bytes(version.size)} · ${version.variants.join(", ")} `,
      element("small", {}, `published ${ago(version.created_at)} by ${version.published_by}`),
    );
    const made = element("details", { "data-version": key, open: this.open.get(key) ?? isNewest }, summary, body);
    const fill = () => made.open && this.fill(body, version);
    made.addEventListener("toggle", () => {
      this.open.set(key, made.open);
      fill();
    });
    fill();
    return made;
  }

  async fill(body, version) {
    if (body.childElementCount) return;
    try {
      if (!this.cards.has(version.digest)) this.cards.set(version.digest, await versionDetail(version.model, version.version));
      body.replaceChildren(...cardOf(this.cards.get(version.digest)));
    } catch (error) {
      body.replaceChildren(element("p", { className: "bad" }, error.message));
    }
  }
}
