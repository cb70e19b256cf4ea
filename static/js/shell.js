// Every page: menu, theme, keys, dialogs, copy, toast. No state but the address, one cookie and what this browser remembers of keys.
import { hideOwn } from "./mine.js";

const $ = (s, from = document) => from.querySelector(s);
const root = document.documentElement;

$(".menu")?.addEventListener("click", (event) => {
  const open = $(".side").classList.toggle("open");
  event.currentTarget.setAttribute("aria-expanded", String(open));
});

$("#theme")?.addEventListener("click", () => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const next = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  root.dataset.theme = next;
  document.cookie = `theme=${next}; path=/; max-age=31536000; samesite=lax`;
});

function open(dialog, from) {
  if (!dialog?.showModal) return;
  // data-set-<field> fills a field of the dialog: what is acted on travels with the button.
  for (const [key, value] of Object.entries(from?.dataset ?? {})) {
    if (key.startsWith("set")) dialog.querySelector(`[name=${key.slice(3).toLowerCase()}]`).value = value;
  }
  // What has to be typed may be what was just filled in: data-must-of names that field, data-echo shows it.
  for (const typed of dialog.querySelectorAll("[data-must-of]")) {
    typed.dataset.must = dialog.querySelector(`[name=${typed.dataset.mustOf}]`).value;
    typed.value = "";
    $(typed.dataset.arms).disabled = true;
  }
  for (const echo of dialog.querySelectorAll("[data-echo]")) echo.textContent = dialog.querySelector(`[name=${echo.dataset.echo}]`).value;
  from?.closest("details")?.removeAttribute("open");
  dialog.dispatchEvent(new CustomEvent("fleet:open", { detail: from }));
  dialog.showModal();
}

async function copy(button) {
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain http has no clipboard: mark the text, so that Ctrl-C takes it.
    getSelection().selectAllChildren(button.previousElementSibling);
    return;
  }
  const was = button.getAttribute("aria-label");
  button.setAttribute("aria-label", "Copied");
  button.classList.add("done");
  setTimeout(() => { button.setAttribute("aria-label", was); button.classList.remove("done"); }, 1500);
}

// Delegated, so that it also works on what a live frame brings.
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) {
    if ("close" in opener.dataset) opener.closest("dialog").close(); // from one dialog to another
    return void open($(opener.dataset.open), opener);
  }
  const closer = event.target.closest("[data-close]");
  if (closer) return void closer.closest("dialog").close();
  if (event.target.closest("[data-dismiss]")) return void $("#toast").remove();
  const copier = event.target.closest("[data-copy]");
  if (copier) return void copy(copier);
  for (const menu of document.querySelectorAll("details.menu-list[open]")) if (!menu.contains(event.target)) menu.open = false;
  if (event.target.tagName === "DIALOG") event.target.close(); // the backdrop
});

// A destructive button stays off until the exact count or name is typed; also then while the server would refuse it.
document.addEventListener("input", (event) => {
  const field = event.target.closest("[data-must]");
  if (!field) return;
  const must = field.dataset.must;
  const typed = /^\d+$/.test(must) ? field.value.replace(/[\s,._]/g, "") : field.value.trim();
  const go = $(field.dataset.arms);
  go.disabled = typed !== must || "refused" in go.dataset;
});

// A form goes once, whatever a person does to its button.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target.dataset.sent) return void event.preventDefault();
  event.target.dataset.sent = "1";
});
addEventListener("pageshow", () => { for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent; });

hideOwn();

const toast = $("#toast");
if (toast) {
  // The address keeps no toast: a reload or a shared link does not say it again.
  const address = new URL(location.href);
  address.searchParams.delete("did");
  address.searchParams.delete("undo");
  history.replaceState(history.state, "", address);
  const leave = () => (toast.matches(":hover, :focus-within") ? setTimeout(leave, 2000) : toast.remove());
  setTimeout(leave, 8000);
}

const wanted = new URL(location.href).searchParams.get("do");
if (wanted && /^[a-z]+$/.test(wanted)) open(document.getElementById(`do-${wanted}`));

const single = $("#single-keys");
if (single) {
  single.checked = localStorage.getItem("single-keys") !== "off";
  single.addEventListener("change", () => localStorage.setItem("single-keys", single.checked ? "on" : "off"));
}

const PLACES = { o: "/", c: "/clusters", m: "/machines", p: "/packages", x: "/faults", s: "/safety", e: "/events", a: "/audit" };
let pending = "";

function moveRow(step) {
  const rows = [...document.querySelectorAll("[data-rows] > *:not(.group)")];
  if (!rows.length) return;
  const at = rows.findIndex((r) => r.classList.contains("cursor"));
  rows[at]?.classList.remove("cursor");
  const row = rows[at < 0 ? 0 : Math.max(0, Math.min(rows.length - 1, at + step))];
  row.classList.add("cursor");
  row.scrollIntoView({ block: "nearest" });
  $("a", row)?.focus({ preventScroll: true });
}

$(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });

function moveTab(step) {
  const tabs = [...document.querySelectorAll(".tabs a")];
  const at = tabs.findIndex((t) => t.hasAttribute("aria-current"));
  tabs[at + step]?.click();
}

const KEYS = {
  j: () => moveRow(1),
  k: () => moveRow(-1),
  "]": () => moveTab(1),
  "[": () => moveTab(-1),
  h: () => $("[data-key=hold]")?.click(),
  w: () => $(".tabs a[href$='/why']")?.click(),
  x: () => $(".cursor input[type=checkbox]")?.click(),
  y: () => $("[data-copy]")?.click(),
  ".": () => document.dispatchEvent(new CustomEvent("fleet:freeze")),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const menu = $("details.menu-list[open]");
  if (event.key === "Escape" && menu) {
    menu.open = false;
    $("summary", menu).focus();
    return;
  }
  if (event.target.matches("input:not([type=checkbox]), textarea, select, [contenteditable]") || $("dialog[open]")) return;
  const key = event.key;
  if (key === "?") return void open($("#keys"));
  if (single && !single.checked) return;
  if (pending === "g") {
    pending = "";
    if (PLACES[key]) location.href = PLACES[key];
  } else if (key === "g") {
    pending = "g";
    setTimeout(() => { pending = ""; }, 900);
  } else if (key === "/") {
    const field = $(".filter input:not([type=hidden])") || $(".find input");
    if (field) { event.preventDefault(); field.focus(); field.select(); }
  } else KEYS[key]?.();
});
