// The stream of the account's events. EventSource cannot send an access token, so `fetch` reads it.

const SILENCE_MS = 40_000; // the service sends a comment every 15 seconds

// Calls `happened` with each event, for ever; after an interruption it resumes behind the latest one.
export async function follow(api, happened, connected) {
  const state = {lastId: "", retryMs: 3000};
  for (;;) {
    try {
      await read(api, state, happened, connected);
    } catch {
      // The stream has broken off: the next one continues it.
    }
    connected(false);
    await new Promise((done) => setTimeout(done, state.retryMs));
  }
}

async function read(api, state, happened, connected) {
  const headers = {Authorization: `Bearer ${api.token}`, Accept: "text/event-stream"};
  if (state.lastId) headers["Last-Event-ID"] = state.lastId;
  const abort = new AbortController();
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => abort.abort(), SILENCE_MS);
  };
  try {
    heard();
    const path = "/api/v1/parental-controls/events";
    const response = await fetch(path, {headers, signal: abort.signal, cache: "no-store"});
    if (!response.ok) return;
    connected(true);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = "";
    let data = "";
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return;
      heard();
      const lines = (waiting + value).split("\n");
      waiting = lines.pop();
      for (const line of lines) {
        const [name, text] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)];
        if (name === "id") state.lastId = text;
        else if (name === "retry") state.retryMs = Number(text);
        else if (name === "data") data = text;
        else if (line === "" && data) {
          happened(JSON.parse(data));
          data = "";
        }
      }
    }
  } finally {
    clearTimeout(silence);
  }
}
