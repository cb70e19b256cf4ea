// A form whose fields follow one choice (data-fit names it): fields of other choices are hidden and not sent.
for (const form of document.querySelectorAll("form[data-fit]")) {
  const choice = form.elements[form.dataset.fit];

  const fit = () => {
    for (const each of form.querySelectorAll("[data-when]")) {
      const on = each.dataset.when.split(" ").includes(choice.value);
      each.hidden = !on;
      for (const field of each.querySelectorAll("input, select")) field.disabled = !on;
    }
  };

  choice.addEventListener("input", fit);
  fit();
}
