// The REST API as the page sees it. The token lives in this tab only.

const KEY = "tideline.session";

export const session = {
  get: () => JSON.parse(sessionStorage.getItem(KEY) ?? "null"),
  set: (value) => sessionStorage.setItem(KEY, JSON.stringify(value)),
  clear: () => sessionStorage.removeItem(KEY),
};

export class Unauthenticated extends Error {}

async function problem(response) {
  try {
    const body = await response.json();
    return body.detail ?? body.title ?? response.statusText;
  } catch {
    return response.statusText;
  }
}

export async function login(form) {
  const response = await fetch("/api/v1/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(form),
  });
  if (!response.ok) throw new Error(await problem(response));
  const answer = await response.json();
  session.set({ token: answer.token, tenant: form.tenant, name: form.name });
}

async function request(path, options = {}) {
  const current = session.get();
  if (!current) throw new Unauthenticated();
  const headers = { Authorization: `Bearer ${current.token}`, ...options.headers };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) throw new Unauthenticated();
  if (!response.ok) throw new Error(await problem(response));
  return response;
}

async function pages(path) {
  const all = [];
  let cursor = "";
  do {
    const page = await (await request(`${path}?limit=200${cursor && `&cursor=${encodeURIComponent(cursor)}`}`)).json();
    all.push(...page.items);
    cursor = page.next ?? "";
  } while (cursor);
  return all;
}

const NEWEST_IMPORTS = 50;
const versionsOf = (model) => `/api/v1/models/${encodeURIComponent(model)}/versions`;

export const devices = () => pages("/api/v1/devices");
export const models = () => pages("/api/v1/models");
export const versions = (model) => pages(versionsOf(model));
export const version = async (model, name) => (await request(`${versionsOf(model)}/${encodeURIComponent(name)}`)).json();
export const imports = async () => (await (await request(`/api/v1/imports?limit=${NEWEST_IMPORTS}`)).json()).items;

// Server-Sent Events over fetch, because EventSource cannot send a bearer token. Calls onEvent for each; returns when the stream ends.
export async function events({ last, signal, onOpen, onEvent }) {
  const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": String(last) } : {}) };
  const response = await request("/api/v1/events", { headers, signal });
  onOpen();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const event = { id: "", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("id:")) event.id = line.slice(3).trim();
        if (line.startsWith("data:")) event.data += line.slice(5).trim();
      }
      if (event.data) onEvent(event.id, JSON.parse(event.data));
    }
  }
}
