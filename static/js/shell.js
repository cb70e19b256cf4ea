// Every page: menu, theme, keys, dialogs, copy. No state but the address and one cookie.
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

// Delegated, so that it also works on what a live frame brings.
document.addEventListener("click", async (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) return void $(opener.dataset.open)?.showModal();
  const closer = event.target.closest("[data-close]");
  if (closer) return void closer.closest("dialog").close();
  const copier = event.target.closest("[data-copy]");
  if (copier) {
    await navigator.clipboard?.writeText(copier.dataset.copy);
    copier.setAttribute("aria-label", "Copied");
  }
});

// A destructive button stays off until the exact count is typed.
document.addEventListener("input", (event) => {
  const field = event.target.closest("[data-must]");
  if (field) $(field.dataset.arms).disabled = field.value.replace(/[\s,._]/g, "") !== field.dataset.must;
});

const wanted = new URL(location.href).searchParams.get("do");
if (wanted) document.getElementById(`do-${wanted}`)?.showModal?.();

const PLACES = { o: "/", c: "/clusters", m: "/machines", p: "/packages", s: "/safety", e: "/events", a: "/audit" };
let pending = "";

function moveRow(step) {
  const rows = [...document.querySelectorAll("[data-rows] > *")];
  if (!rows.length) return;
  const at = rows.findIndex((r) => r.classList.contains("cursor"));
  rows[at]?.classList.remove("cursor");
  const row = rows[Math.max(0, Math.min(rows.length - 1, at + step))];
  row.classList.add("cursor");
  $("a", row)?.focus();
}

function moveTab(step) {
  const tabs = [...document.querySelectorAll(".tabs a")];
  const at = tabs.findIndex((t) => t.hasAttribute("aria-current"));
  tabs[at + step]?.click();
}

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select, [contenteditable]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const key = event.key;
  if (pending === "g") {
    pending = "";
    if (PLACES[key]) location.href = PLACES[key];
    return;
  }
  if (key === "g") {
    pending = "g";
    setTimeout(() => { pending = ""; }, 900);
  } else if (key === "/") {
    const field = $(".filter input") || $(".find input");
    if (field) { event.preventDefault(); field.focus(); }
  } else if (key === "?") $("#keys")?.showModal();
  else if (key === "j") moveRow(1);
  else if (key === "k") moveRow(-1);
  else if (key === "]") moveTab(1);
  else if (key === "[") moveTab(-1);
  else if (key === "h") $("[data-key=hold]")?.click();
  else if (key === "y") $("[data-copy]")?.click();
});
