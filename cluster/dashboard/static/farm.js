// What pages do beyond HTML: they say when they are not up to date, and Ctrl-Enter runs a query.
"use strict";

function say(isConnected) {
  document.body.classList.toggle("disconnected", !isConnected);
}

document.body.addEventListener("htmx:sseOpen", () => say(true));
document.body.addEventListener("htmx:sseError", () => say(false));
document.body.addEventListener("htmx:sseClose", () => say(false));

document.addEventListener("keydown", (event) => {
  const field = event.target;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && field instanceof HTMLTextAreaElement) {
    field.form.requestSubmit();
  }
});
