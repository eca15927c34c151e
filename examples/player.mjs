// A player's part of the viewing-time API: heartbeats, verdicts, requests for more time.
//
//   const player = new Player({
//     baseUrl: "https://viewing.example", profileId, deviceId, deviceType: "tv",
//     token: (isRejected) => accessToken(isRejected), // a string or a promise of one
//     show: (screen) => { … },                        // see below
//   });
//   player.start(titleId); player.pause(); player.resume(); await player.stop();
//
// `show` gets what the child must see from now on. The picture runs while the latest screen is
// `playing` or `warning`, and stops at any other one:
//
//   playing      remainingMinutes (null: no limit), isEducational
//   warning      remainingMinutes; shown once at 15 and once at 5 minutes, in front of the picture
//   blocked      reason (null: not known yet), nextAllowedAt, mayAsk, request (the state of the
//                request for more time)
//   ready        nothing blocks any more: offer to continue with `start`
//   displaced    deviceType, endedAt: another device plays now; offer to `start` here
//   unreachable  viewing cannot be counted; the player tries again by itself
//   refused      status, detail: a retry does not help
//   stopped      after `stop`
//
// It has no dependencies and runs in browsers and in Node.js 18 or newer.

const INTERVAL = 30_000; // milliseconds; a heartbeat pays for the 30 seconds that follow it
const ATTEMPT = 5_000; // time-out of one request
const LATE = 5_000; // a timer that is later than this: the device was asleep
const MIN_PAUSE = 500;
const MAX_PAUSE = 8_000;
const LIMITS = ["daily_limit", "weekly_limit"]; // the rules that more time lifts

export class Player {
  #options;
  #starts = 0;
  #run = null; // the title that plays, or that waits until it may
  #warned = new Set(); // the warnings that were shown since more time was left
  #requestId = null;
  #request = null;

  constructor(options) {
    this.#options = {
      deviceType: "web",
      fetch: (url, init) => globalThis.fetch(url, init),
      now: () => performance.now(), // milliseconds of a monotonic clock
      setTimeout: (call, milliseconds) => globalThis.setTimeout(call, milliseconds),
      clearTimeout: (timer) => globalThis.clearTimeout(timer),
      random: Math.random,
      ...options,
    };
  }

  /** Plays a title in a session of its own, and ends the one before. */
  async start(titleId) {
    const start = ++this.#starts;
    await this.stop();
    if (start !== this.#starts) return; // another one came meanwhile
    // `due` is when the latest heartbeat had to be sent; time without a picture moves it.
    const stoppedAt = this.#options.now(); // of the picture; undefined while it runs
    this.#run = { titleId, sessionId: null, isPaused: false, isOver: false, due: 0, stoppedAt };
    this.#run.done = this.#play(this.#run);
  }

  pause() {
    if (this.#run) this.#run.isPaused = true;
  }

  resume() {
    if (this.#run) this.#run.isPaused = false;
  }

  /** Stops the picture, delivers a heartbeat that is still owed, and ends the session. */
  async stop() {
    const run = this.#run;
    if (run && !run.isOver) {
      this.#stopPicture(run);
      run.isOver = true;
      run.giveUpAt = this.#options.now() + INTERVAL;
      this.#options.show({ screen: "stopped" });
      run.wake?.();
    }
    await run?.done;
  }

  /** Asks the parents for more time; `minutes` null: for the rest of the day. */
  async ask(minutes, message) {
    const { profileId, deviceId } = this.#options;
    const body = { profile_id: profileId, minutes, message, device_id: deviceId };
    const answer = await this.#send("POST", "requests", body, this.#key(), 3);
    if (answer?.status !== 200 && answer?.status !== 201) {
      return { status: answer ? "refused" : "unreachable", detail: answer?.body.detail };
    }
    this.#requestId = answer.body.request_id;
    this.#request = answer.body.status;
    this.#run?.wake?.();
    return { status: this.#request };
  }

  async #play(run) {
    if (!(await this.#begin(run))) return;
    run.due = run.stoppedAt = this.#options.now();
    while (!run.isOver) {
      const late = this.#options.now() - run.due;
      if (late > LATE) run.due += late; // nobody has watched in the meantime
      const decision = await this.#beat(run);
      if (decision) return this.#block(run, decision);
      run.due += INTERVAL;
      if (!run.isOver) await this.#until(run, run.due);
    }
    await this.#end(run);
  }

  /** Waits until the service can be reached; false if a title may not start. No beat is counted. */
  async #begin(run) {
    for (let attempt = 0; !run.isOver; attempt++) {
      const answer = await this.#decision(run);
      if (answer?.status === 200) {
        if (mayStart(answer.body)) return !run.isOver;
        await this.#block(run, answer.body);
        return false;
      }
      if (isFinal(answer)) return this.#refuse(run, answer);
      this.#showUnreachable(run);
      await this.#pause(run, attempt, answer);
    }
    return false;
  }

  /**
   * Sends one heartbeat until its outcome is known, always with the same key, so it is counted
   * once. Returns the decision if a rule blocks. The picture runs on for 30 seconds at most.
   */
  async #beat(run) {
    const key = this.#key();
    const body = this.#heartbeat(run); // a key fits one body, also if the pause ends meanwhile
    const { now, setTimeout, clearTimeout } = this.#options;
    const isOwed = run.stoppedAt === undefined;
    const left = run.due + INTERVAL - now();
    const timer = setTimeout(() => this.#showUnreachable(run), Math.max(0, left));
    try {
      for (let attempt = 0; !run.isOver || (isOwed && now() < run.giveUpAt); attempt++) {
        const answer = await this.#send("POST", "heartbeat", body, key);
        if (answer?.status === 200 && answer.body.enforcement !== "blocked") {
          return this.#watch(run, answer.body);
        }
        if (answer?.status === 200) {
          this.#showBlocked(run, {}); // at once, before the reason is known
          const decision = await this.#decision(run);
          if (decision?.status === 200 && !decision.body.allowed) {
            run.sessionId = answer.body.session_id;
            return decision.body;
          }
          this.#showUnreachable(run); // the heartbeat could not be counted: no rule blocks
        } else if (answer?.status === 404 && run.sessionId !== null) {
          run.sessionId = body.session_id = null; // the session was deleted
          continue;
        } else if (isFinal(answer)) {
          return this.#refuse(run, answer);
        } else if (run.stoppedAt !== undefined) {
          this.#showUnreachable(run);
        }
        await this.#pause(run, attempt, answer);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #heartbeat({ titleId, sessionId, isPaused }) {
    const { profileId, deviceId, deviceType } = this.#options;
    return {
      profile_id: profileId,
      title_id: titleId,
      device_id: deviceId,
      device_type: deviceType,
      session_id: sessionId,
      is_paused: isPaused,
      exclusive: true,
    };
  }

  /** Obeys a verdict that lets the title play. */
  #watch(run, verdict) {
    run.sessionId = verdict.session_id;
    if (run.isOver) return;
    if (run.stoppedAt !== undefined) {
      run.due += this.#options.now() - run.stoppedAt; // what was paid and not watched is left
      run.stoppedAt = undefined;
    }
    this.#request = this.#requestId = null;
    const { enforcement, remaining_minutes: remainingMinutes } = verdict;
    if (enforcement === "allowed") this.#warned.clear();
    if (enforcement === "warning_15") this.#warned.delete("warning_5");
    const isNew = enforcement !== "allowed" && !this.#warned.has(enforcement);
    if (isNew) this.#warned.add(enforcement);
    const screen = isNew ? "warning" : "playing";
    this.#show(run, { screen, remainingMinutes, isEducational: verdict.is_educational });
  }

  /** Ends the session and shows the block screen until a title may start again. */
  async #block(run, decision) {
    await this.#end(run);
    this.#warned.clear();
    while (!run.isOver) {
      this.#showBlocked(run, decision);
      await this.#until(run, this.#options.now() + INTERVAL);
      if (run.isOver) return;
      const answer = await this.#decision(run);
      if (answer?.status === 200) decision = answer.body;
      else if (isFinal(answer)) return this.#refuse(run, answer);
      if (mayStart(decision)) return this.#finish(run, { screen: "ready" });
      if (this.#request === "pending") {
        const asked = await this.#send("GET", `requests/${this.#requestId}`);
        if (asked?.status === 200) this.#request = asked.body.status;
      }
    }
  }

  #showBlocked(run, decision) {
    const reason = decision.reason ?? decision.limited_by ?? null;
    const mayAsk = LIMITS.includes(reason) && this.#request !== "pending";
    const nextAllowedAt = decision.next_allowed_at ?? null;
    this.#show(run, { screen: "blocked", reason, nextAllowedAt, mayAsk, request: this.#request });
  }

  #refuse(run, { status, body }) {
    if (status === 409) {
      const { device_type: deviceType, ended_at: endedAt } = body;
      this.#finish(run, { screen: "displaced", deviceType, endedAt });
    } else {
      this.#finish(run, { screen: "refused", status, detail: body.detail });
    }
    run.sessionId = null; // it has ended, or cannot be ended
  }

  #finish(run, screen) {
    this.#show(run, screen);
    run.isOver = true;
  }

  /** Stops the picture, because viewing cannot be counted. */
  #showUnreachable(run) {
    this.#show(run, { screen: "unreachable" });
  }

  #show(run, screen) {
    if (run.isOver || (screen.screen === "unreachable" && run.screen === "unreachable")) return;
    run.screen = screen.screen;
    if (screen.screen !== "playing" && screen.screen !== "warning") this.#stopPicture(run);
    this.#options.show(screen);
  }

  #stopPicture(run) {
    run.stoppedAt ??= this.#options.now();
  }

  /** A failure does no harm: the next session to start ends this one too. */
  async #end(run) {
    if (run.sessionId === null) return;
    await this.#send("POST", `session/${run.sessionId}/end`, null, this.#key());
    run.sessionId = null;
  }

  #decision({ titleId }) {
    return this.#send("GET", `decision/${this.#options.profileId}?title_id=${titleId}`);
  }

  /** Returns status, body and `Retry-After` in milliseconds, or null if there was no answer. */
  async #send(method, path, body, key, attempts = 1) {
    let answer = null;
    for (let attempt = 0; attempt < attempts; attempt++) {
      if (attempt) await this.#pause({}, attempt, answer);
      answer = await this.#once(method, path, body, key, false);
      if (answer?.status === 401) answer = await this.#once(method, path, body, key, true);
      if (answer && (answer.status < 400 || isFinal(answer) || answer.retryAfter > INTERVAL)) break;
    }
    return answer;
  }

  async #once(method, path, body, key, isRejected) {
    const controller = new AbortController();
    let timer;
    const late = new Promise((resolve) => {
      timer = this.#options.setTimeout(() => {
        resolve(null);
        controller.abort();
      }, ATTEMPT);
    });
    const answered = async () => {
      const headers = { Authorization: `Bearer ${await this.#options.token(isRejected)}` };
      if (key) headers["Idempotency-Key"] = key;
      if (body) headers["Content-Type"] = "application/json";
      const init = { method, headers, signal: controller.signal };
      if (body) init.body = JSON.stringify(body);
      const url = `${this.#options.baseUrl}/api/v1/viewing-time/${path}`;
      const answer = await this.#options.fetch(url, init);
      const retryAfter = 1000 * (Number(answer.headers.get("Retry-After")) || 0);
      return { status: answer.status, body: await answer.json(), retryAfter };
    };
    try {
      return await Promise.race([late, answered().catch(() => null)]);
    } finally {
      this.#options.clearTimeout(timer);
    }
  }

  /** Exponential back-off with jitter, or longer if the service says so. */
  #pause(run, attempt, answer) {
    const longest = Math.min(MAX_PAUSE, MIN_PAUSE * 2 ** attempt);
    const pause = longest * (0.5 + this.#options.random() / 2);
    return this.#until(run, this.#options.now() + Math.max(pause, answer?.retryAfter ?? 0));
  }

  /** Returns at a time of the monotonic clock, or when `stop` or `ask` ends the wait. */
  #until(run, time) {
    return new Promise((resolve) => {
      const timer = this.#options.setTimeout(resolve, Math.max(0, time - this.#options.now()));
      run.wake = () => {
        this.#options.clearTimeout(timer);
        resolve();
      };
    });
  }

  /** An idempotency key. It need not be secret, only a new one for each heartbeat. */
  #key() {
    const digit = () => Math.floor(36 * this.#options.random()).toString(36);
    return Array.from({ length: 32 }, digit).join("");
  }
}

function mayStart(decision) {
  return decision.allowed && !decision.is_finishing;
}

/** Whether a retry of the same request would get the same answer. */
function isFinal(answer) {
  const status = answer?.status ?? 0;
  return status >= 400 && status < 500 && status !== 408 && status !== 429;
}
