// The machine list: selection of rows, the dialog for many.
const $ = (s, from = document) => from.querySelector(s);
const panel = $("[data-select]");
const bar = $(".selbar");
const all = $("[data-all]");
const boxes = () => [...panel.querySelectorAll("tbody input[type=checkbox]")];
const chosen = () => boxes().filter((box) => box.checked);
const machines = (n) => (n === 1 ? "1 machine" : `${n.toLocaleString("en")} machines`);

// All that match, beyond this page: counted and frozen by the server, {n, hash}. `frozen` once a person chose it.
let offered = null;
let frozen = null;
let asked = 0;

async function offer() {
  const turn = ++asked;
  const q = panel.dataset.q;
  say("counting what matches…");
  let answer;
  try {
    answer = await fetch(`/do/matching?${new URLSearchParams({ q, ...(q ? {} : { all: "1" }) })}`, { headers: { Accept: "application/json" } });
    if (answer.redirected) return void location.reload(); // logged out
    answer = await answer.json();
  } catch {
    answer = { n: null, why: "What matches could not be counted." };
  }
  if (turn !== asked) return;
  if (answer.n === null) return void say(answer.why);
  offered = answer;
  say("");
  const button = $("[data-match-all]");
  button.textContent = q ? `Select all ${answer.n.toLocaleString("en")} that match` : `Select all ${machines(answer.n)}`;
  button.hidden = false;
}

const frozenText = () => (panel.dataset.q ? `All ${frozen.n.toLocaleString("en")} that match are selected` : `All ${machines(frozen.n)} are selected`);

function say(text) {
  $("[data-match]").textContent = text;
}

function withdraw() {
  asked += 1;
  offered = frozen = null;
  say("");
  $("[data-match-all]").hidden = true;
}

function show() {
  const n = chosen().length;
  const whole = n > 0 && n === boxes().length;
  for (const box of boxes()) {
    if (box.checked) box.closest("tr").setAttribute("aria-selected", "true");
    else box.closest("tr").removeAttribute("aria-selected");
  }
  bar.hidden = !n;
  $("[data-selected]").textContent = frozen ? frozenText() : `${n} selected`;
  for (const button of bar.querySelectorAll("[data-open='#do-many']")) {
    button.disabled = Boolean(frozen) && frozen.n > frozen.most;
    button.title = button.disabled ? `At most ${frozen.most} at once: narrow the filter` : "";
  }
  $("[data-page]").hidden = whole;
  all.checked = whole;
  all.indeterminate = n > 0 && !whole;
}

// Rows were ticked by hand: what was chosen beyond them no longer holds.
function ticked() {
  withdraw();
  show();
  if (all.checked && "more" in panel.dataset) offer();
}

function tickAll(on) {
  for (const box of boxes()) box.checked = on;
  ticked();
}

let last = null;
if (bar) {
  panel.addEventListener("click", (event) => {
    const box = event.target.closest("tbody input[type=checkbox]");
    if (!box) return;
    const every = boxes();
    if (event.shiftKey && last) {
      const [a, b] = [every.indexOf(last), every.indexOf(box)].sort((x, y) => x - y);
      for (const each of every.slice(a, b + 1)) each.checked = box.checked;
    }
    last = box;
    ticked();
  });
  all.addEventListener("change", () => tickAll(all.checked));
  $("[data-page]").addEventListener("click", () => tickAll(true));
  $("[data-unselect]").addEventListener("click", () => tickAll(false));
  $("[data-match-all]").addEventListener("click", (event) => {
    frozen = offered;
    event.currentTarget.hidden = true;
    show();
    $("[data-unselect]").focus(); // the button that had the focus is gone
  });
}

const MANY = 20; // as the server asks it
const VERBS = {
  hold: ["Hold", "Fleet looks at them and changes nothing until the hold ends or is released. One Hold each."],
  release: ["Release", "Removes the holds that name these machines; wider holds stay."],
  reconcile: ["Reconcile", "Fleet looks at them now. That alone changes nothing that was not to be changed."],
};
// What is selected travels with the form: rows by name, all that match by the filter and the hash of what was counted.
function fill(form) {
  const names = frozen ? [] : chosen().map((box) => box.value);
  const q = panel.dataset.q;
  for (const old of form.querySelectorAll("[data-target]")) old.remove();
  const put = (name, value) => {
    const field = Object.assign(document.createElement("input"), { type: "hidden", name, value });
    field.dataset.target = "";
    form.append(field);
  };
  for (const name of names) put("name", name);
  if (frozen) for (const [key, value] of Object.entries({ q, hash: frozen.hash, n: frozen.n, ...(q ? {} : { all: 1 }) })) put(key, value);
  const which = q ? `All that match ${q}` : "Every machine that you may see";
  return { n: frozen ? frozen.n : names.length, kept: frozen ? ` ${which}, as counted: if another set matches when you press, nothing is done.` : "" };
}

const dialog = $("#do-many");
dialog?.addEventListener("fleet:open", (event) => {
  const verb = event.detail.dataset.verb;
  const form = $("form", dialog);
  const { n, kept } = fill(form);
  $("[name=verb]", form).value = verb;
  $("h2", form).textContent = `${VERBS[verb][0]} ${machines(n)}`;
  $("[data-says]", form).textContent = VERBS[verb][1] + kept;
  $("[data-for=hold]", form).hidden = verb !== "hold";
  $("[name=reason]", form).required = verb === "hold";
  const count = $("[data-count]", form);
  const input = $("input", count);
  count.hidden = n <= MANY;
  input.value = "";
  input.dataset.must = String(n);
  input.dataset.arms = "#many-go";
  $("b", count).textContent = String(n);
  const go = $("#many-go");
  go.textContent = `${VERBS[verb][0]} ${machines(n)}`;
  go.disabled = n > MANY;
});
// Hundreds take some seconds: the button says that it is at work.
dialog?.addEventListener("submit", () => {
  const go = $("#many-go");
  go.textContent = "At work…";
  go.disabled = true;
});

const BATCH = {
  Drain: "Each node is closed and its pods are moved, a few machines at a time as budgets allow. What is drained opens again by its gates.",
  Reboot: "Each is drained first where it is a node, then rebooted, a few at a time as budgets allow. More than 3 failures stop the rest.",
  Decommission: "Each is drained, leaves its cluster, what Fleet installed is taken away, and the machine is gone from Fleet. That cannot be undone.",
};
const batch = $("#do-batch");
batch?.addEventListener("fleet:open", (event) => {
  const verb = event.detail.dataset.verb;
  const form = $("form", batch);
  const { n, kept } = fill(form);
  $("[name=verb]", form).value = verb;
  $("h2", form).textContent = `${verb} ${machines(n)}`;
  $("[data-says]", form).textContent = BATCH[verb] + kept;
  const go = $("#batch-go");
  go.textContent = `${verb} ${machines(n)}`;
  go.classList.toggle("harm", verb === "Decommission");
  go.disabled = true;
  $("[data-count] input", form).value = "";
});
