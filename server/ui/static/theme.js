// The theme that was chosen in this browser, before the page is drawn.
const chosen = localStorage.getItem("roundhouse-theme");
if (chosen) document.documentElement.dataset.theme = chosen;
