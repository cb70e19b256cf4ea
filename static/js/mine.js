// A second person's word is no button for the first: fragments are rendered once for all with the same rights, so the page hides it.
export function hideOwn() {
  const me = document.body.dataset.me;
  for (const element of document.querySelectorAll("[data-not-for]")) element.hidden = element.dataset.notFor === me;
}
