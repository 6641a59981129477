// What the page does beyond links and forms: it renews itself, stands still on demand, copies.
"use strict";

const renewed = document.querySelector("[data-renewed]");

// --- renewed in place: nothing that a reader has opened or focused is lost ---

if (renewed) {
  let paused = false;
  let opened = [];
  let focused = null;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Pause";
  button.className = "pause";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Pause";
  });
  document.querySelector(".title").append(button);

  // Where the keyboard stops.
  const stops = () => [...renewed.querySelectorAll("a[href], button, input, summary, [tabindex]")];
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt === renewed && (paused || document.hidden)) event.preventDefault();
  });
  renewed.addEventListener("htmx:beforeSwap", () => {
    opened = [...renewed.querySelectorAll("details[open][id]")].map((one) => one.id);
    const place = stops().indexOf(document.activeElement);
    focused = place < 0 ? null : { id: document.activeElement.id, place };
  });
  renewed.addEventListener("htmx:afterSwap", () => {
    for (const id of opened) {
      const one = document.getElementById(id);
      if (one) one.open = true;
    }
    if (focused) {
      const same = focused.id ? document.getElementById(focused.id) : stops()[focused.place];
      same?.focus({ preventScroll: true });
    }
  });

  // A browser has few connections for one host: a page that nobody sees gives its own back.
  const events = renewed.dataset.events;
  let source = null;
  const listen = () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (events && !source) {
      source = new EventSource(events);
      source.addEventListener("live", () => renewed.dispatchEvent(new Event("live")));
    }
  };
  document.addEventListener("visibilitychange", listen);
  listen();
}

// --- commands to copy; the clipboard is there in TLS and on this machine only ---

if (navigator.clipboard) {
  for (const text of document.querySelectorAll("pre[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    const both = document.createElement("div");
    both.className = "copied";
    text.replaceWith(both);
    both.append(text, button);
  }
}
