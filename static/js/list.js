// The machine list: tokens of the filter by keyboard, selection of rows, the dialog for many.
const $ = (s, from = document) => from.querySelector(s);
const filter = $("[data-filter]");
const field = $("input[name=q]", filter);

// The address carries one `q` (what stands as tokens and what is typed) and the order.
filter.addEventListener("submit", (event) => {
  event.preventDefault();
  const q = [$("[name=base]", filter).value, field.value.trim()].filter(Boolean).join(" ");
  const sort = $("[name=sort]", filter)?.value;
  location.href = `/machines?${new URLSearchParams({ ...(q && { q }), ...(sort && { sort }) })}`.replace(/\?$/, "");
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Backspace" && !field.value) [...filter.querySelectorAll("[data-token]")].at(-1)?.click();
  if (event.key === "Escape") field.blur();
});
field.addEventListener("input", (event) => {
  if (event.inputType === "insertReplacementText" || event.inputType === undefined) filter.requestSubmit(); // a suggestion was taken
});

const panel = $("[data-select]");
const bar = $(".selbar");
const all = $("[data-all]");
const chosen = () => [...panel.querySelectorAll("tbody input:checked")];

function show() {
  const n = chosen().length;
  for (const box of panel.querySelectorAll("tbody input[type=checkbox]")) {
    if (box.checked) box.closest("tr").setAttribute("aria-selected", "true");
    else box.closest("tr").removeAttribute("aria-selected");
  }
  bar.hidden = !n;
  $("[data-selected]").textContent = `${n} selected`;
  all.checked = n > 0 && n === panel.querySelectorAll("tbody input[type=checkbox]").length;
  all.indeterminate = n > 0 && !all.checked;
}

let last = null;
if (bar) {
  panel.addEventListener("click", (event) => {
    const box = event.target.closest("tbody input[type=checkbox]");
    if (!box) return;
    const boxes = [...panel.querySelectorAll("tbody input[type=checkbox]")];
    if (event.shiftKey && last) {
      const [a, b] = [boxes.indexOf(last), boxes.indexOf(box)].sort((x, y) => x - y);
      for (const each of boxes.slice(a, b + 1)) each.checked = box.checked;
    }
    last = box;
    show();
  });
  all.addEventListener("change", () => {
    for (const box of panel.querySelectorAll("tbody input[type=checkbox]")) box.checked = all.checked;
    show();
  });
  $("[data-unselect]").addEventListener("click", () => {
    for (const box of chosen()) box.checked = false;
    show();
  });
}

const MANY = 20; // as the server asks it
const VERBS = {
  hold: ["Hold", "Fleet looks at them and changes nothing until the hold ends or is released. One Hold each."],
  release: ["Release", "Removes the holds that name these machines; wider holds stay."],
  reconcile: ["Reconcile", "Fleet looks at them now. That alone changes nothing that was not to be changed."],
};
const dialog = $("#do-many");
dialog?.addEventListener("fleet:open", (event) => {
  const verb = event.detail.dataset.verb;
  const names = chosen().map((box) => box.value);
  const what = names.length === 1 ? "1 machine" : `${names.length} machines`;
  const form = $("form", dialog);
  for (const old of form.querySelectorAll("[name=name]")) old.remove();
  for (const name of names) form.append(Object.assign(document.createElement("input"), { type: "hidden", name: "name", value: name }));
  $("[name=verb]", form).value = verb;
  $("h2", form).textContent = `${VERBS[verb][0]} ${what}`;
  $("[data-says]", form).textContent = VERBS[verb][1];
  $("[data-for=hold]", form).hidden = verb !== "hold";
  $("[name=reason]", form).required = verb === "hold";
  const count = $("[data-count]", form);
  const input = $("input", count);
  count.hidden = names.length <= MANY;
  input.value = "";
  input.dataset.must = String(names.length);
  input.dataset.arms = "#many-go";
  $("b", count).textContent = String(names.length);
  const go = $("#many-go");
  go.textContent = `${VERBS[verb][0]} ${what}`;
  go.disabled = names.length > MANY;
});
