// Live fragments: the server sends {id, html}; the element of that id is replaced. Nothing under the pointer moves:
// while a dialog is open or a field inside the fragment has the focus, frames wait.
const chip = document.querySelector(".fresh");
const note = document.querySelector("#delayed");
const newer = document.querySelector("#newer");
const waiting = new Map();
let heard = performance.now();
let wait = 500;
let unseen = 0;
let flashes = [];

function busy(element) {
  return document.querySelector("dialog[open]") || element.contains(document.activeElement) && document.activeElement.matches("input, textarea, select");
}

function flash(element) {
  const now = performance.now();
  flashes = flashes.filter((t) => now - t < 1000);
  if (flashes.length >= 12) return;
  flashes.push(now);
  element.classList.add("flash");
}

function put(id, html) {
  const old = document.getElementById(id);
  if (!old) {
    if (id.startsWith("row-") && newer) {
      unseen += 1;
      newer.hidden = false;
      newer.textContent = `${unseen} newer`;
    }
    return;
  }
  if (busy(old)) return void waiting.set(id, html);
  waiting.delete(id);
  const holder = document.createElement(old.tagName === "TR" ? "tbody" : "div");
  holder.innerHTML = html;
  const fresh = holder.firstElementChild;
  if (!fresh) return void old.classList.add("gone");
  const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const open = [...old.querySelectorAll("details[open]")].map((d) => d.id).filter(Boolean);
  if (old.classList.contains("cursor")) fresh.classList.add("cursor");
  old.replaceWith(fresh);
  for (const each of open) document.getElementById(each)?.setAttribute("open", "");
  if (focused) fresh.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  if (fresh.dataset.state !== undefined && fresh.dataset.state !== old.dataset.state) flash(fresh);
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/ws/live?path=${encodeURIComponent(location.pathname + location.search)}`);
  socket.onmessage = (event) => {
    heard = performance.now();
    wait = 500;
    const frame = JSON.parse(event.data);
    for (const { id, html } of frame.fragments || []) put(id, html);
  };
  socket.onclose = (event) => {
    if (event.code === 4403) return; // rights are gone: the next click asks for a log in
    setTimeout(connect, document.hidden ? 5000 : wait);
    wait = Math.min(wait * 2, 10000);
  };
}

function tick() {
  const age = (performance.now() - heard) / 1000;
  document.body.classList.toggle("delayed", age > 5);
  chip.firstElementChild.textContent = age > 5 ? `Delayed by ${Math.round(age)} s` : "Live";
  note.hidden = age < 15;
  for (const [id, html] of waiting) put(id, html);
  for (const time of document.querySelectorAll("time[data-at]")) {
    const text = ago(Date.now() / 1000 - Number(time.dataset.at));
    if (time.textContent !== text) time.textContent = text;
  }
}

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

if (chip && document.body.dataset.live !== undefined) {
  connect();
  setInterval(tick, 1000);
  newer?.addEventListener("click", () => location.reload());
}
