"use strict";
// Colors: those of the system until the button is pressed; the choice is kept if the browser allows it.
// Scripts that draw listen to "recolor".
(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => {
    try { return localStorage.getItem("scrl-theme"); } catch { return null; }
  };
  const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const recolor = () => {
    toggle.textContent = isDark() ? "Light colors" : "Dark colors";
    document.dispatchEvent(new Event("recolor"));
  };
  if (["dark", "light"].includes(remembered())) root.dataset.theme = remembered();
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("scrl-theme", root.dataset.theme); } catch { /* a file may not be allowed to */ }
    recolor();
  });
  prefersDark.addEventListener("change", recolor);
  toggle.hidden = false;
  recolor();
})();
