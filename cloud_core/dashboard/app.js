// The page: who is logged in, one stream of events, and the fleet drawn from the levels the API gives.

import { Unauthenticated, devices, events, imports, login, session } from "./api.js";
import { drawDevices, drawEvent, drawTiles } from "./fleet.js";
import { Models } from "./models.js";

const byId = (id) => document.getElementById(id);
const REFRESH_MS = 1000;
const IDLE_REFRESH_MS = 10000;
const VIEWS = ["fleet", "models"];
const models = new Models({ imports: byId("imports"), noImports: byId("no-imports"), models: byId("models"), noModels: byId("no-models") });
let stream = null;

const view = () => (VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : VIEWS[0]);

function show(loggedIn) {
  byId("login-view").hidden = loggedIn;
  for (const name of VIEWS) byId(`${name}-view`).hidden = !loggedIn || name !== view();
  for (const link of byId("views").querySelectorAll("a")) {
    if (link.hash === `#${view()}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("views").hidden = !loggedIn;
  byId("logout").hidden = !loggedIn;
  const current = session.get();
  byId("who").textContent = loggedIn ? `${current.name} · ${current.tenant}` : "";
}

function live(state, text) {
  byId("live").dataset.state = state;
  byId("live").textContent = text;
}

// Events say that something changed; what is drawn is always the newest levels, asked for at most once a second.
const dirty = { fleet: true, imports: true, models: true };
let drawnAt = 0;
function changed(resource) {
  if (resource === "imports") dirty.imports = true;
  else if (resource === "models" || resource === "versions") dirty.models = true;
  else dirty.fleet = true;
}
function allChanged() {
  for (const name of Object.keys(dirty)) dirty[name] = true;
}

async function refreshFleet() {
  const now = Date.now();
  if (!dirty.fleet && now - drawnAt < IDLE_REFRESH_MS) return;
  dirty.fleet = false;
  drawnAt = now;
  const fleet = await devices();
  drawTiles(byId("tiles"), fleet);
  drawDevices(byId("devices"), fleet);
  byId("empty").hidden = fleet.length > 0;
}

async function refreshModels() {
  if (dirty.imports) {
    dirty.imports = false;
    models.drawImports(await imports());
  }
  if (dirty.models) {
    dirty.models = false;
    await models.load();
  }
}

async function refresh() {
  if (!session.get()) return;
  await (view() === "models" ? refreshModels() : refreshFleet());
}

function leave() {
  stream?.abort();
  session.clear();
  live("off", "not connected");
  show(false);
}

function fail(error) {
  // What could not be asked for is asked for again.
  allChanged();
  if (error instanceof Unauthenticated) leave();
  else if (error.name !== "AbortError") live("lost", `reconnecting: ${error.message}`);
}

async function follow() {
  stream = new AbortController();
  const { signal } = stream;
  let last = "";
  let pause = 500;
  while (!signal.aborted && session.get()) {
    try {
      await events({
        last,
        signal,
        onOpen: () => {
          live("on", "live");
          pause = 500;
          allChanged();
        },
        onEvent: (id, event) => {
          last = id || last;
          changed(event.resource);
          drawEvent(byId("events"), event);
        },
      });
      live("lost", "reconnecting");
    } catch (error) {
      fail(error);
    }
    await new Promise((done) => setTimeout(done, pause * (0.5 + Math.random() / 2)));
    pause = Math.min(pause * 2, 10000);
  }
}

function enter() {
  show(true);
  allChanged();
  byId("events").replaceChildren();
  refresh().catch(fail);
  follow();
}

byId("login").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  byId("login-error").textContent = "";
  try {
    await login(Object.fromEntries(new FormData(submitted.target)));
    submitted.target.password.value = "";
    enter();
  } catch (error) {
    byId("login-error").textContent = error.message;
  }
});
byId("logout").addEventListener("click", leave);
addEventListener("hashchange", () => {
  show(Boolean(session.get()));
  allChanged();
  refresh().catch(fail);
});
setInterval(() => refresh().catch(fail), REFRESH_MS);
if (session.get()) enter();
else show(false);
