// What pages do beyond HTML: they say when they are not up to date, keep the open page's name in sight, and Ctrl-Enter runs a
// query.
"use strict";

function say(isConnected) {
  document.body.classList.toggle("disconnected", !isConnected);
}

// On a phone the pages' names are wider than the screen: the one that is open is in sight.
document.querySelector("header nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

document.body.addEventListener("htmx:sseOpen", () => say(true));
document.body.addEventListener("htmx:sseError", () => say(false));
document.body.addEventListener("htmx:sseClose", () => say(false));

// What somebody has opened stays open when its part of the page is made again.
document.body.addEventListener("htmx:beforeSwap", (event) => {
  const opened = [...event.detail.target.querySelectorAll("details[id][open]")].map((one) => one.id);
  document.body.addEventListener("htmx:afterSwap", () => {
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  }, { once: true });
});

document.addEventListener("keydown", (event) => {
  const field = event.target;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && field instanceof HTMLTextAreaElement) {
    field.form.requestSubmit();
  }
});
