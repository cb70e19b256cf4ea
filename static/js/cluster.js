// The dialog of a new cluster: each provider has its own fields; those of the others are hidden and not sent.
const form = document.querySelector("form[data-cluster]");
const provider = form.elements["spec.provider"];

function fit() {
  for (const each of form.querySelectorAll("[data-when]")) {
    const on = each.dataset.when.split(" ").includes(provider.value);
    each.hidden = !on;
    for (const field of each.querySelectorAll("input, select")) field.disabled = !on;
  }
}

provider.addEventListener("input", fit);
fit();
