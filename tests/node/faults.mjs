// A connection that fails at random, a model of the service behind it, and a child who watches.

const FAULTS = ["unsent", "lost", "slow", "late", "busy", "blocked", "blocked and counted"];

export function reply(status, body, headers = {}) {
  return { status, json: async () => body, headers: { get: (name) => headers[name] ?? null } };
}

/** A `fetch` that loses, delays and refuses; `rate` of the requests have a fault. */
export function failing(fetch, time, random, rates) {
  return async (url, init) => {
    const isBeat = url.endsWith("/heartbeat");
    const kinds = isBeat ? FAULTS : FAULTS.slice(0, 5);
    const fault = random() < rates.now ? kinds[Math.floor(kinds.length * random())] : null;
    if (fault === "unsent") throw new TypeError("fetch failed");
    if (fault === "busy") return reply(503, { detail: "Busy" }, { "Retry-After": "1" });
    if (fault === "blocked") return failClosed();
    if (fault === "late") await time.wait(12_000 * random()); // it arrives when nobody waits for it
    const answer = await fetch(url, init);
    if (fault === "blocked and counted") return failClosed();
    if (fault === "slow") await time.wait(12_000 * random());
    if (fault === "lost") throw new TypeError("fetch failed");
    return answer;
  };
}

function failClosed() {
  const figures = { remaining_minutes: 0, used_minutes: 0, is_educational: false };
  return reply(200, { session_id: "of-no-session", enforcement: "blocked", ...figures });
}

/** What the service does with heartbeats, sessions and requests, as far as a player notices. */
export class Service {
  sessions = new Map(); // counted seconds
  keys = new Map(); // what each was used for
  calls = []; // [milliseconds, method and path, body, key]
  answers = []; // functions that answer the next requests instead
  usedSeconds = 0;
  limitSeconds = null;
  request = null;
  reason = null; // of a lock or downtime

  constructor(time) {
    this.time = time;
  }

  fetch = async (url, init) => {
    const path = new URL(url).pathname.replace("/api/v1/viewing-time/", "");
    const body = init.body && JSON.parse(init.body);
    const key = init.headers["Idempotency-Key"];
    this.calls.push([this.time.now(), `${init.method} ${path.split("/")[0]}`, body, key]);
    const other = this.answers.shift()?.(path, body);
    if (other) return other;
    if (path === "heartbeat") return this.#heartbeat(body, key);
    if (path.startsWith("decision/")) return reply(200, this.#decision());
    if (path.startsWith("session/")) return reply(200, {});
    if (init.method === "POST") this.request ??= "pending";
    return reply(init.method === "POST" ? 201 : 200, { request_id: "r", status: this.request });
  };

  heartbeats() {
    return this.calls.filter(([, call]) => call === "POST heartbeat");
  }

  get #leftSeconds() {
    if (this.reason) return 0;
    return this.limitSeconds === null ? null : Math.max(0, this.limitSeconds - this.usedSeconds);
  }

  #heartbeat(body, key) {
    const session = body.session_id ?? `of-${key}`;
    if (body.session_id && !this.sessions.has(session)) {
      return reply(404, { detail: "Session not found" });
    }
    const request = JSON.stringify({ ...body, session_id: null });
    if ((this.keys.get(key) ?? request) !== request) {
      return reply(422, { detail: "Idempotency-Key has been used for another request" });
    }
    if (!this.keys.has(key)) {
      this.keys.set(key, request);
      this.sessions.set(session, (this.sessions.get(session) ?? 0) + 30);
      this.usedSeconds += 30;
    }
    const left = this.#leftSeconds;
    let enforcement = "allowed";
    if (left !== null && left <= 900) enforcement = left > 300 ? "warning_15" : "warning_5";
    if (left === 0) enforcement = "blocked";
    const minutes = { remaining_minutes: left && left / 60, used_minutes: this.usedSeconds / 60 };
    return reply(200, { session_id: session, enforcement, ...minutes, is_educational: false });
  }

  #decision() {
    const allowed = this.#leftSeconds !== 0;
    const reason = allowed ? null : (this.reason ?? "daily_limit");
    const next = { limited_by: "daily_limit", next_allowed_at: "2026-11-26T06:00:00Z" };
    return { allowed, is_finishing: false, reason, ...next };
  }
}

/** A child in front of the screen: `pictureSeconds` have been watched. */
export class Child {
  screens = [];
  #watched = 0;
  #since = null;

  constructor(time) {
    this.time = time;
  }

  show = (screen) => {
    this.screens.push({ at: this.time.now() / 1000, ...screen });
    const isRunning = screen.screen === "playing" || screen.screen === "warning";
    if (isRunning) this.#since ??= this.time.now();
    else {
      this.#watched = 1000 * this.pictureSeconds;
      this.#since = null;
    }
  };

  get pictureSeconds() {
    const running = this.#since === null ? 0 : this.time.now() - this.#since;
    return (this.#watched + running) / 1000;
  }

  get last() {
    return this.screens.at(-1);
  }

  names() {
    return this.screens.map(({ screen }) => screen);
  }
}

/** What a player of 30-second heartbeats has to pay for a time with a picture. */
export function paid(seconds) {
  return 30 * Math.ceil(seconds / 30 - 1e-6);
}
