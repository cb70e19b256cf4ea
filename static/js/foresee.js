// The dialog that changes versions: what is typed is asked as a dry run, and the plan stands there before anybody confirms.
const place = document.querySelector("[data-foresee]");
const dialog = place.closest("dialog");
const form = dialog.querySelector("form");
const PAUSE = 400; // ms after the last key
let asked = 0;
let timer = 0;

function tell(lines, tone) {
  const list = document.createElement("ul");
  list.className = tone;
  list.append(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  place.replaceChildren(list);
}

async function foresee() {
  const turn = ++asked;
  let answer;
  try {
    const reply = await fetch(place.dataset.foresee, { method: "POST", body: new FormData(form) });
    if (reply.redirected) return void location.reload(); // logged out
    answer = await reply.json();
  } catch {
    answer = { plan: [], why: "What it would do could not be asked." };
  }
  if (turn !== asked) return;
  if (answer.why) tell([answer.why], "no");
  else tell(answer.plan.length ? answer.plan : ["These are its pins already: nothing would change."], "");
}

dialog.addEventListener("fleet:open", foresee);
if (dialog.open) foresee(); // an address with do=versions opened it before this module came
form.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(foresee, PAUSE);
});
