// A list of items in a form that are added and removed: [data-list] holds them, how many there may be, and a template of one.
// A new item takes a number that no other had; the server reads whatever numbers it finds, in their order.
const NEW = "[new]";

for (const list of document.querySelectorAll("[data-list]")) {
  const template = list.querySelector("template");
  const add = list.querySelector("[data-add]");
  const items = () => [...list.querySelectorAll("[data-item]")];
  let next = items().length;

  const settle = () => {
    items().forEach((item, n) => {
      item.querySelector("[data-number]").textContent = n + 1;
      item.querySelector("[data-remove]").setAttribute("aria-label", `Remove ${item.querySelector("legend").textContent.trim().toLowerCase()}`);
    });
    add.disabled = items().length >= Number(list.dataset.list);
  };

  // What the form would mean is asked anew, as after a key.
  const changed = () => {
    settle();
    list.querySelector("input[type=hidden]").dispatchEvent(new Event("input", { bubbles: true }));
  };

  add.addEventListener("click", () => {
    const item = template.content.cloneNode(true);
    for (const element of item.querySelectorAll("*")) {
      for (const each of element.attributes) if (each.value.includes(NEW)) each.value = each.value.replace(NEW, `[${next}]`);
    }
    next += 1;
    template.before(item);
    changed();
    items().at(-1).querySelector("input:not([type=hidden])").focus();
  });

  list.addEventListener("click", (event) => {
    const item = event.target.closest("[data-remove]")?.closest("[data-item]");
    if (!item) return;
    const after = items()[items().indexOf(item) + 1];
    item.remove();
    changed();
    (after?.querySelector("[data-remove]") ?? add).focus();
  });

  settle();
}
