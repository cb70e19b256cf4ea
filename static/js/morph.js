// Make one element like another in place: what is the same stays the same node, so focus, selection and scroll are kept.
const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
// What a person or this page's scripts set, not the server.
const KEPT = new Set(["open"]);
const OURS = ["cursor", "gone"];

export function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE || old.nodeType === Node.COMMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  attributes(old, fresh);
  children(old, fresh);
}

function attributes(old, fresh) {
  const ours = OURS.filter((name) => name !== "gone" && old.classList.contains(name));
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !KEPT.has(name) && name !== "aria-selected") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (!KEPT.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const name of ours) old.classList.add(name);
  if (old.getAttribute("class") === "") old.removeAttribute("class");
}

function children(old, fresh) {
  let at = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    if (at && same(at, wanted)) {
      morph(at, wanted);
      at = at.nextSibling;
      continue;
    }
    const known = wanted.id && [...old.children].find((c) => c.id === wanted.id);
    if (known) {
      old.insertBefore(known, at);
      morph(known, wanted);
    } else if (at && !at.id && at.nextSibling && same(at.nextSibling, wanted)) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
      morph(at, wanted);
      at = at.nextSibling;
    } else old.insertBefore(wanted, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
