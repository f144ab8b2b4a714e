// Server-sent events over fetch: EventSource can send no Authorization header.

const SILENCE = 45_000; // three times as long as a server that lives says nothing
const LINGER = 1000;

/** Yields {event, data} of a text/event-stream; data is JSON. Throws where the server falls silent. */
export async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await inTime(reader.read());
      if (done) return;
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const found = parsed(block);
        if (found) yield found;
      }
    }
  } finally {
    drain(reader);
  }
}

/** The server ends what is over by itself, and then the connection can be used again; but it is not waited for long. */
async function drain(reader) {
  const timer = setTimeout(() => reader.cancel().catch(() => {}), LINGER);
  try {
    while (!(await reader.read()).done);
  } catch { /* it is over in any case */ }
  clearTimeout(timer);
}

function parsed(block) {
  let event = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? []; // comments keep the connection alive
    if (name === "event") event = value;
    else if (name === "data") data.push(value);
  }
  return data.length ? { event, data: JSON.parse(data.join("\n")) } : null;
}

function inTime(promise) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new TypeError("silence")), SILENCE); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
