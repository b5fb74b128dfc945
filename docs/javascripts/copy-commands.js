// The copy button of a terminal session copies its commands, without prompts and output.
for (const session of document.querySelectorAll(".language-console code")) {
  const commands = [];
  let continued = false;
  for (const line of session.textContent.split("\n")) {
    if (!continued && !line.startsWith("$ ")) continue;
    commands.push(continued ? line : line.slice(2));
    continued = line.endsWith("\\");
  }
  session.dataset.copy = commands.join("\n"); // the theme copies this, where it stands, instead of the text
}
