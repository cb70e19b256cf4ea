// Live fragments: the server sends {position, fragments: [{id, html}]}; the element of that id is made like it, in place.
// While a dialog or menu is open, rows are selected or the page is frozen (`.`), frames wait and the newest of each wins.
import { hideOwn } from "./mine.js";
import { morph } from "./morph.js";

const chip = document.querySelector(".fresh span");
const note = document.querySelector("#delayed");
const newer = document.querySelector("#newer");
const waiting = new Map();
const unseen = new Set();
const MANY = 100; // as many as a page has rows: there may be others between two frames
const SLOWEST = 10000;
const POLL_AFTER = 15; // seconds without a frame, and then every POLL_EVERY ms
const POLL_EVERY = 10000;
let polled = 0;
let heard = performance.now();
let pause = 500;
let frozen = false;
let flashes = [];
let lost = 0;
let socket = null;

const busy = () => frozen || document.querySelector("dialog[open], details.menu-list[open], tr[aria-selected=true]") !== null;

function flash(element) {
  const now = performance.now();
  flashes = flashes.filter((t) => now - t < 1000);
  if (flashes.length >= 12) return;
  flashes.push(now);
  element.classList.add("flash");
  setTimeout(() => { element.classList.remove("flash"); if (!element.className) element.removeAttribute("class"); }, 1700);
}

function put(id, html) {
  const old = document.getElementById(id);
  if (!old) return void gather(id, html);
  if (!html) {
    if (!old.closest("[data-log]")) old.classList.add("gone"); // a row of a log only went to the next page
    return;
  }
  const holder = document.createElement("template");
  holder.innerHTML = html;
  const fresh = holder.content.firstElementChild;
  if (!fresh) return;
  const state = old.dataset.state;
  old.classList.remove("gone");
  morph(old, fresh);
  if (state !== undefined && state !== old.dataset.state) flash(old);
}

// New rows wait behind a chip: nothing moves under the pointer.
function gather(id, html) {
  if (!newer || !html || !id.startsWith("row-")) return;
  unseen.add(id);
  newer.hidden = false;
  newer.textContent = `${unseen.size}${unseen.size >= MANY ? " or more" : ""} newer`;
}

function receive(frame) {
  heard = performance.now();
  pause = 500;
  document.body.dataset.position = frame.position;
  for (const { id, html } of frame.fragments ?? []) waiting.set(id, html);
  drain();
}

function drain() {
  if (busy()) return;
  for (const [id, html] of waiting) put(id, html);
  waiting.clear();
  hideOwn();
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const query = new URLSearchParams({ path: location.pathname + location.search, position: document.body.dataset.position });
  socket = new WebSocket(`${scheme}://${location.host}/ws/live?${query}`);
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = (event) => {
    socket = null;
    if (event.code === 4403) return void location.reload(); // rights are gone: the page says which
    if (event.code === 4404) return; // the object is gone: the page stays as it was
    if (document.hidden) return; // on return it connects again
    lost = setTimeout(connect, pause);
    pause = Math.min(pause * 2, SLOWEST);
  };
}

// Without its socket (a proxy that lets none through, a server that is gone) the page asks for itself, and takes its fragments.
async function poll() {
  polled = performance.now();
  let answer;
  try {
    answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  } catch {
    return; // nobody answers: the chip says for how long
  }
  if (answer.redirected) return void location.reload(); // logged out
  if (!answer.ok || performance.now() - heard < POLL_AFTER * 1000) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const ids = (page) => (page.body.dataset.live ?? "").split(" ").filter(Boolean);
  for (const id of ids(document)) waiting.set(id, "");
  for (const id of ids(fresh)) waiting.set(id, fresh.getElementById(id)?.outerHTML ?? "");
  document.body.dataset.position = fresh.body.dataset.position;
  drain();
}

// A hidden page costs nothing: after half a minute it lets go and on return it gets what it missed.
let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) hiding = setTimeout(() => socket?.close(), 30000);
  else if (!socket) {
    clearTimeout(lost);
    heard = performance.now();
    connect();
  }
});

function say(text) {
  if (chip.textContent !== text) chip.textContent = text;
}

function tick() {
  const age = (performance.now() - heard) / 1000;
  document.body.classList.toggle("delayed", age > 5);
  if (age > 5) say(`Delayed by ${Math.round(age)} s`);
  else say(frozen ? "Frozen" : waiting.size ? `${waiting.size} waiting` : "Live");
  note.hidden = age < POLL_AFTER;
  if (age >= POLL_AFTER && !document.hidden && performance.now() - polled >= POLL_EVERY) poll();
  drain();
  for (const time of document.querySelectorAll("time[data-at]")) {
    const text = ago(Date.now() / 1000 - Number(time.dataset.at));
    if (time.textContent !== text) time.textContent = text;
  }
  for (const time of document.querySelectorAll("time[data-local]")) {
    const text = LOCAL.format(new Date(time.dataset.local * 1000));
    if (time.textContent !== text) time.textContent = text;
  }
}

const LOCAL = new Intl.DateTimeFormat("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit" });

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

connect();
setInterval(tick, 1000);
newer?.addEventListener("click", () => location.reload());
document.addEventListener("fleet:freeze", () => { frozen = !frozen; tick(); });
