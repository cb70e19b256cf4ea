// Dialogs that tell what they would do: what is typed is asked as a dry run, and the answer stands there before anybody confirms.
const PAUSE = 400; // ms after the last key
const $ = (s, from) => from.querySelector(s);

function tell(place, lines, tone) {
  const list = document.createElement("ul");
  list.className = tone;
  list.append(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  place.replaceChildren(list);
}

// A problem stands at its field, once somebody was there; before that its field is only named.
function mark(form, fields) {
  const needed = [];
  for (const at of form.querySelectorAll("[data-at]")) {
    const field = form.elements[at.dataset.at];
    const problem = field.disabled ? "" : (fields[at.dataset.at] ?? "");
    const early = !field.value && !("touched" in field.dataset);
    if (problem && early) needed.push(field.labels[0].firstChild.textContent.trim());
    const text = early ? "" : problem;
    at.textContent = text;
    at.hidden = !text;
    field.toggleAttribute("aria-invalid", Boolean(text));
    if (text) field.setAttribute("aria-describedby", at.id);
    else field.removeAttribute("aria-describedby");
  }
  return needed;
}

// The count that has to be typed comes with the answer; "" = none.
function count(form, must) {
  const label = $("[data-count]", form);
  if (!label || must === undefined) return;
  const input = $("input", label);
  label.hidden = !must;
  $("b", label).textContent = must;
  if (must) input.dataset.must = must;
  else delete input.dataset.must;
  form.elements.told.value = must;
}

// The button goes when the server would accept it and what has to be typed is typed.
function arm(form, go, may) {
  go.toggleAttribute("data-refused", !may);
  const typed = $("[data-must]", form);
  if (typed) typed.dispatchEvent(new Event("input", { bubbles: true }));
  else go.disabled = !may;
}

for (const place of document.querySelectorAll("[data-foresee]")) {
  const dialog = place.closest("dialog");
  const form = $("form", dialog);
  const go = place.dataset.go ? $(place.dataset.go, form) : null;
  let asked = 0;
  let timer = 0;

  const show = (answer) => {
    if (answer.html === undefined) {
      if (answer.why) tell(place, [answer.why], "no");
      else tell(place, answer.plan.length ? answer.plan : ["These are its pins already: nothing would change."], "");
      return;
    }
    place.innerHTML = answer.html;
    if (answer.go) go.textContent = answer.go;
    if (answer.seen) form.elements.seen.value = answer.seen;
    count(form, answer.must);
    const needed = mark(form, answer.fields);
    if (needed.length) place.append(Object.assign(document.createElement("p"), { className: "sub", textContent: `Still needed: ${needed.join(", ")}.` }));
    arm(form, go, answer.may);
  };

  const foresee = async () => {
    const turn = ++asked;
    let answer;
    try {
      const reply = await fetch(place.dataset.foresee, { method: "POST", body: new FormData(form) });
      if (reply.redirected) return void location.reload(); // logged out
      answer = await reply.json();
    } catch {
      answer = { plan: [], why: "What it would do could not be asked." };
    }
    if (turn === asked) show(answer);
  };

  dialog.addEventListener("fleet:open", foresee);
  if (dialog.open) foresee(); // an address with do=… opened it before this module came
  form.addEventListener("focusout", (event) => {
    if (event.target.name && event.target.value) event.target.dataset.touched = "";
  });
  form.addEventListener("input", (event) => {
    if ("must" in event.target.dataset) return; // it changes nothing of what would be done
    event.target.dataset.touched = "";
    if (go) go.disabled = true; // until what is typed now was asked
    clearTimeout(timer);
    timer = setTimeout(foresee, PAUSE);
  });
}
