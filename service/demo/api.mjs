// Requests to the public API, and a record of them that the page shows.

export class Refused extends Error {
  constructor(status, body, headers) {
    super(sentence(status, body));
    this.status = status;
    this.body = body;
    this.lockedUntil = headers.get("X-Locked-Until");
  }
}

function sentence(status, body) {
  const detail = body?.detail ?? `The service has answered ${status}.`;
  if (!Array.isArray(detail)) return detail;
  return detail.map(({loc, msg}) => `${loc.slice(1).join(".")}: ${msg}`).join("; ");
}

export class Api {
  // `recorded` is called with each request after its answer. A `quiet` request repeats on its own.
  constructor(token, recorded) {
    this.token = token;
    this.recorded = recorded;
  }

  async call(method, path, {body, headers = {}, quiet = false} = {}) {
    const sent = {Authorization: `Bearer ${this.token}`, ...headers};
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const content = body === undefined ? undefined : JSON.stringify(body);
    const request = {method, path, headers: sent, content, quiet};
    let response;
    try {
      response = await fetch(path, {method, headers: sent, body: content, cache: "no-store"});
    } catch {
      this.recorded({...request, status: null, answer: "No answer: the service is not reachable."});
      throw new Error("The service is not reachable.");
    }
    const text = await response.text();
    const answer = parsed(text);
    this.recorded({...request, status: response.status, answer: answer ?? text});
    if (!response.ok) throw new Refused(response.status, answer, response.headers);
    return answer;
  }

  get(path, options) {
    return this.call("GET", path, options);
  }

  post(path, body, options) {
    return this.call("POST", path, {...options, body});
  }

  put(path, body, options) {
    return this.call("PUT", path, {...options, body});
  }

  delete(path, options) {
    return this.call("DELETE", path, options);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// The request as a shell command; `token` replaces the access token.
export function curl({method, path, headers, content}, token = null) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = ["curl -s", ...(method === "GET" ? [] : [`-X ${method}`])];
  for (const [name, value] of Object.entries(headers)) {
    const shown = name === "Authorization" && token !== null ? `Bearer ${token}` : value;
    parts.push(`-H ${quoted(`${name}: ${shown}`)}`);
  }
  if (content !== undefined) parts.push(`-d ${quoted(content)}`);
  return [...parts, quoted(location.origin + path)].join(" ");
}
