// The page: who is logged in, one stream of events, and the fleet drawn from the levels the API gives.

import { Unauthenticated, devices, events, login, session } from "./api.js";
import { drawDevices, drawEvent, drawTiles } from "./fleet.js";

const byId = (id) => document.getElementById(id);
const REFRESH_MS = 1000;
const IDLE_REFRESH_MS = 10000;
let stream = null;

function show(loggedIn) {
  byId("login-view").hidden = loggedIn;
  byId("fleet-view").hidden = !loggedIn;
  byId("logout").hidden = !loggedIn;
  const current = session.get();
  byId("who").textContent = loggedIn ? `${current.name} · ${current.tenant}` : "";
}

function live(state, text) {
  byId("live").dataset.state = state;
  byId("live").textContent = text;
}

// Events say that something changed; what is drawn is always the newest levels, asked for at most once a second.
let dirty = true;
let drawnAt = 0;
async function refresh() {
  if (!session.get()) return;
  const now = Date.now();
  if (!dirty && now - drawnAt < IDLE_REFRESH_MS) return;
  dirty = false;
  drawnAt = now;
  const fleet = await devices();
  drawTiles(byId("tiles"), fleet);
  drawDevices(byId("devices"), fleet);
  byId("empty").hidden = fleet.length > 0;
}

function leave() {
  stream?.abort();
  session.clear();
  live("off", "not connected");
  show(false);
}

function fail(error) {
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
          dirty = true;
        },
        onEvent: (id, event) => {
          last = id || last;
          dirty = true;
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
  dirty = true;
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
setInterval(() => refresh().catch(fail), REFRESH_MS);
if (session.get()) enter();
else show(false);
