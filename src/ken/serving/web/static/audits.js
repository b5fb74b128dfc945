// The form of a new audit: a file that is uploaded is the one that is meant.

const by = (id) => document.getElementById(id);

by("upload").addEventListener("change", () => {
  if (by("upload").files.length) by("questions").value = "";
});
by("questions").addEventListener("change", () => {
  if (by("questions").value) by("upload").value = "";
});
by("order").addEventListener("submit", () => {
  by("order").querySelector("button").disabled = true; // once is enough
});
addEventListener("pageshow", () => {
  const button = by("order").querySelector("button");
  if (by("model").options.length) button.disabled = false;
});
