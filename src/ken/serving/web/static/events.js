// Server-sent events over fetch, so that a question travels in the body of a POST and can be stopped.

export class Refused extends Error {}

// Ask for `url` and call `told(name, data)` for each event. Throws `Refused` with the server's sentence, or what fetch throws.
export async function listen(url, options, told) {
  const reply = await fetch(url, options);
  if (!reply.ok) throw new Refused(await sentence(reply));
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      deliver(text.slice(0, end), told);
      text = text.slice(end + 2);
    }
  }
}

function deliver(block, told) {
  let name = "message", data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) told(name, JSON.parse(data));
}

// What a reply that is no success says.
export async function sentence(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `the server answered ${reply.status} ${reply.statusText}`.trim();
  }
}
