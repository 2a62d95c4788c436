
"use strict";
const EVERY_MS = 1000, PATIENCE_MS = 5000;
const silence = document.getElementById("silence");
let answeredAt = Date.now(), why = "";

// Make one element like another, and leave alone what is the same: what is selected stays selected.
function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName) { old.replaceWith(fresh.cloneNode(true)); return; }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const {name} of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const ours = [...old.childNodes], theirs = [...fresh.childNodes];
  theirs.forEach((node, i) => i < ours.length ? patch(ours[i], node) : old.append(node.cloneNode(true)));
  ours.slice(theirs.length).forEach(node => node.remove());
}

function show(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const main = fresh.querySelector("main");
  if (!main) throw Error("something else answers there");
  if (fresh.documentElement.dataset.page !== document.documentElement.dataset.page)
    location.reload();  // of another version: its style and its script are other ones
  patch(document.querySelector("main"), main);
  patch(document.querySelector("link[rel=icon]"), fresh.querySelector("link[rel=icon]"));
  document.title = fresh.title;
}

async function refresh() {
  try {
    const answer = await fetch(location.pathname, {cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS)});
    const text = await answer.text();
    if (!answer.ok) throw Error(text.trim());
    show(text);
    answeredAt = Date.now();
    why = "";
  } catch (error) {
    why = error.name === "Error" ? ` (${error.message})` : "";
  }
}

function tell() {
  const silent_s = Math.round((Date.now() - answeredAt) / 1000);
  const is_silent = why !== "" || silent_s > 3;
  document.body.classList.toggle("silent", is_silent);
  silence.hidden = !is_silent;
  if (!is_silent) return;
  const since = document.getElementById("at").textContent;
  silence.textContent = `No answer since ${since}, ${silent_s} s ago${why}. What is below is from then.`;
  document.title = "no answer · " + document.title.replace("no answer · ", "");
  document.querySelector("link[rel=icon]").href = "data:,";  // no colour: that was the last state's
}

// A hidden tab refreshes too, less often as browsers have it: its title and its icon are in sight.
(async () => {
  for (;;) {
    await new Promise(done => setTimeout(done, EVERY_MS));
    await refresh();
    tell();
  }
})();
