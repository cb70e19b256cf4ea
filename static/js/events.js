// The histogram as a picker of ranges: drag over it. The two fields above do the same by keyboard.
const pick = document.querySelector("[data-pick]");
const mark = Object.assign(document.createElement("div"), { className: "pick", hidden: true });
const LEAST = 4; // px: less is a click
let from = null;

const chart = () => pick.querySelector("svg[data-begin]");
const clamp = (x, box) => Math.min(Math.max(x, box.left), box.right);

function draw(x) {
  const box = chart().getBoundingClientRect();
  const home = pick.getBoundingClientRect();
  const [a, b] = [from, clamp(x, box)].sort((p, q) => p - q);
  Object.assign(mark.style, { left: `${a - home.left}px`, width: `${b - a}px`, top: `${box.top - home.top}px`, height: `${box.height}px` });
  mark.hidden = false;
  return [a, b, box];
}

function go([a, b, box]) {
  const { begin, end } = chart().dataset;
  const at = (x) => new Date((Number(begin) + ((x - box.left) / box.width) * (end - begin)) * 1000).toISOString().replace(/\.\d+Z/, "Z");
  const address = new URL(location.href);
  address.searchParams.set("from", at(a));
  address.searchParams.set("to", at(b));
  address.searchParams.delete("position");
  location.href = address;
}

if (pick) {
  pick.append(mark);
  pick.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("svg[data-begin]") || event.button !== 0) return;
    from = clamp(event.clientX, chart().getBoundingClientRect());
    pick.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  pick.addEventListener("pointermove", (event) => { if (from !== null) draw(event.clientX); });
  pick.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const range = draw(event.clientX);
    from = null;
    if (range[1] - range[0] >= LEAST) go(range);
    else mark.hidden = true;
  });
  pick.addEventListener("pointercancel", () => { from = null; mark.hidden = true; });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { from = null; mark.hidden = true; } });
}
