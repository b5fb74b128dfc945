// Parts of a page that are asked for again: the server makes them, as it did the first time.

export const AWAY = "The server does not answer. What is shown is what it last said.";
export const RETRYING = `${AWAY} It is asked again and again.`;

const latest = new Map(); // of every part the last request, so that a slow old reply does not replace a newer one

/** Replace the elements with these ids by what `address` has under the same ids. Resolves to whether it could. */
export async function renew(address, ...ids) {
  const turn = Symbol(address);
  ids.forEach((id) => {
    latest.set(id, turn);
    document.getElementById(id)?.setAttribute("aria-busy", "true");
  });
  let text = null;
  try {
    const reply = await fetch(address, { headers: { Accept: "text/html" } });
    if (reply.ok) text = await reply.text();
  } catch {
    // told below
  }
  tell(text === null ? AWAY : "");
  if (text === null) return false;
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const id of ids) {
    const here = document.getElementById(id);
    const there = fresh.getElementById(id);
    if (!here || !there || latest.get(id) !== turn) continue;
    const focused = here.contains(document.activeElement) ? key(document.activeElement) : null;
    const scrolled = [...here.querySelectorAll("[tabindex]")].map((e) => [key(e), e.scrollLeft]);
    const open = [...here.querySelectorAll("details[open][id]")].map((e) => e.id);
    here.replaceWith(document.adoptNode(there));
    open.forEach((name) => document.getElementById(name)?.setAttribute("open", ""));
    for (const [name, left] of scrolled) {
      if (left) { const same = find(there, name); if (same) same.scrollLeft = left; }
    }
    if (focused) find(there, focused)?.focus({ preventScroll: true });
  }
  return true;
}

/** Say what is wrong, above everything else or before an element; "" takes it back. */
export function tell(problem, below = null) {
  const told = document.getElementById("problem");
  if (told?.textContent === problem) return; // it stands there, and is not read out again
  told?.remove();
  if (!problem) return;
  const notice = document.createElement("p");
  notice.id = "problem";
  notice.className = "error";
  notice.setAttribute("role", "alert");
  notice.textContent = problem;
  (below ?? document.getElementById("main").firstElementChild).before(notice);
}

// An element that has no id is known by where it leads or what it is called.
function key(element) {
  return element.id || element.getAttribute("href") || element.getAttribute("aria-label") || element.textContent.trim();
}

function find(root, name) {
  return [root, ...root.querySelectorAll("[id], a, button, [aria-label]")].find((e) => key(e) === name);
}
