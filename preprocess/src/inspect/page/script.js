"use strict";
// The page is complete without this script, which adds filters and highlighting.
(() => {
  const byId = (id) => document.getElementById(id);
  const pairs = [...document.querySelectorAll(".pair")];

  // Matched boxes have the same number. The pointer or the focus highlights them, a click keeps that.
  const matches = (pair, number) => pair.querySelectorAll(`[data-box="${number}"]`);
  const light = (pair, number) => {
    pair.querySelectorAll(".lit").forEach((element) => element.classList.remove("lit"));
    const shown = number ?? pair.dataset.kept;
    pair.classList.toggle("lighting", shown !== undefined);
    if (shown !== undefined) matches(pair, shown).forEach((element) => element.classList.add("lit"));
  };
  const keep = (pair, number) => {
    if (number === undefined) delete pair.dataset.kept; else pair.dataset.kept = number;
    pair.querySelectorAll("button[data-box]").forEach((key) => {
      key.setAttribute("aria-pressed", String(key.dataset.box === number));
    });
  };
  const numberAt = (event) => event.target.closest?.("[data-box]")?.dataset.box;
  for (const pair of pairs) {
    for (const kind of ["pointerover", "focusin"]) {
      pair.addEventListener(kind, (event) => light(pair, numberAt(event)));
    }
    for (const kind of ["pointerleave", "focusout"]) {
      pair.addEventListener(kind, () => light(pair));
    }
    pair.addEventListener("click", (event) => {
      const number = numberAt(event);
      keep(pair, number === pair.dataset.kept ? undefined : number);
      light(pair, number === pair.dataset.kept ? number : undefined);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const pair of pairs) {
      keep(pair, undefined);
      light(pair);
    }
  });

  // Filters.
  const [epoch, group, solarized, few] = ["f-epoch", "f-class", "f-solarized", "f-few"].map(byId);
  const filter = () => {
    let count = 0;
    for (const pair of pairs) {
      const { epoch: e, class: c, solarized: s, few: f } = pair.dataset;
      pair.hidden = Boolean(
        (epoch.value && epoch.value !== e) || (group?.value && group.value !== c) ||
        (solarized.checked && s !== "true") || (few.checked && f !== "true"));
      count += pair.hidden ? 0 : 1;
    }
    byId("shown").textContent = `${count} of ${pairs.length} shown`;
    document.querySelector(".nothing").hidden = count > 0;
  };
  const form = byId("pairs");
  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
})();
