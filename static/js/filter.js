// A filter bar: what stands as tokens and what is typed become one `q`; the other hidden fields (order, range) stay in the address.
const $ = (s, from = document) => from.querySelector(s);
const filter = $("[data-filter]");
const field = $("input[name=q]", filter);

filter.addEventListener("submit", (event) => {
  event.preventDefault();
  const q = [$("[name=base]", filter).value, field.value.trim()].filter(Boolean).join(" ");
  const kept = [...filter.querySelectorAll("input[type=hidden]:not([name=base])")].map((each) => [each.name, each.value]);
  const path = filter.getAttribute("action");
  location.href = `${path}?${new URLSearchParams([...(q ? [["q", q]] : []), ...kept.filter(([, value]) => value)])}`.replace(/\?$/, "");
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Backspace" && !field.value) [...filter.querySelectorAll("[data-token]")].at(-1)?.click();
  if (event.key === "Escape") field.blur();
});
field.addEventListener("input", (event) => {
  if (event.inputType === "insertReplacementText" || event.inputType === undefined) filter.requestSubmit(); // a suggestion was taken
});
