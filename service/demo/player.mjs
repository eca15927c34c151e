// A player: sends a heartbeat for every 30 seconds that it plays, and obeys the verdict.

import * as words from "./words.mjs";

const VIEWING = "/api/v1/viewing-time";
const BEAT_SECONDS = 30;
const BLOCKED_MS = 500; // between two looks at the block screen whether playback may go on

export class Player {
  // `screen` shows the state. `clock.speed` is how many seconds pass in a second of the page.
  constructor(api, device, clock, screen, seen) {
    Object.assign(this, {api, device, clock, screen, seen});
    this.timer = null;
    this.turn = 0; // each change of what the player does begins a new turn, which ends the older one
    this.reset();
  }

  reset() {
    this.sessionId = null;
    this.requestId = null;
    this.enforcement = null;
    this.isPaused = false;
    this.show({kind: "idle"});
  }

  show(state) {
    this.state = {at: performance.now(), speed: this.clock.speed, ...state};
    this.screen.show(this.state);
  }

  get isPlaying() {
    return this.state.kind === "playing";
  }

  async choose(child, titleId) {
    const was = this.child;
    if (was !== undefined) await this.stop();
    Object.assign(this, {child, titleId});
  }

  play() {
    this.isPaused = false;
    return this.run();
  }

  pause() {
    this.isPaused = true;
    return this.run();
  }

  async stop() {
    clearTimeout(this.timer);
    this.turn += 1;
    await this.endSession();
    this.reset();
  }

  // Sends the first heartbeat now, and the next ones by the clock.
  async run() {
    clearTimeout(this.timer);
    const turn = (this.turn += 1);
    this.next = async () => {
      this.timer = null;
      this.begun = performance.now();
      const wait = await this.step(turn);
      if (turn === this.turn && wait !== null) this.schedule(wait);
    };
    await this.next();
  }

  schedule(wait) {
    this.timer = setTimeout(this.next, Math.max(0, this.begun + wait - performance.now()));
  }

  // The clock has another speed: the next heartbeat is due at another time.
  retime() {
    if (!this.isPlaying) return;
    this.show({...this.state, speed: this.clock.speed, isNew: false});
    if (this.timer === null) return; // a heartbeat is under way, and the next one follows it
    clearTimeout(this.timer);
    this.schedule(this.beatMs());
  }

  // The service's clock stays, and a pause is measured by it: its heartbeats keep their pace.
  beatMs() {
    return 1000 * BEAT_SECONDS / (this.isPaused ? 1 : this.clock.speed);
  }

  // Does what is due; returns the milliseconds until the next step, or null to stop.
  async step(turn) {
    try {
      if (this.sessionId === null && !(await this.mayStart(turn))) return BLOCKED_MS;
      const verdict = await this.api.post(`${VIEWING}/heartbeat`, {
        profile_id: this.child.profile_id,
        title_id: this.titleId,
        device_id: this.device.id,
        device_type: this.device.type,
        session_id: this.sessionId,
        is_paused: this.isPaused,
        exclusive: true, // reject the heartbeat if another device has ended the session
      }, {quiet: this.sessionId !== null});
      if (turn !== this.turn) return null;
      return await this.obey(verdict, turn);
    } catch (error) {
      return turn === this.turn ? this.failed(error) : null;
    }
  }

  async obey(verdict, turn) {
    this.sessionId = verdict.session_id;
    if (verdict.enforcement === "blocked") {
      await this.endSession({quiet: true});
      await this.block(turn);
      return BLOCKED_MS;
    }
    const isNew = verdict.enforcement !== this.enforcement;
    this.enforcement = verdict.enforcement;
    this.requestId = null;
    const kind = this.isPaused ? "paused" : "playing";
    this.show({kind, verdict, isNew});
    this.seen(kind === "paused" ? "paused" : verdict.enforcement, this);
    return this.beatMs();
  }

  // Before a session begins: nothing is watched yet, so nothing is counted.
  async mayStart(turn) {
    const path = `${VIEWING}/playback-eligible/${this.child.profile_id}`;
    const {eligible} = await this.api.get(path, {quiet: true});
    if (!eligible && turn === this.turn) await this.block(turn);
    return eligible && turn === this.turn;
  }

  // Shows the block screen with its reason, and what has become of the child's request.
  async block(turn) {
    const path = `${VIEWING}/decision/${this.child.profile_id}`;
    const decision = await this.api.get(path, {quiet: this.state.kind === "blocked"});
    let request = null;
    if (this.requestId !== null) {
      request = await this.api.get(`${VIEWING}/requests/${this.requestId}`, {quiet: true});
    }
    if (turn !== this.turn || decision.reason === null) return;
    const isNew = this.state.kind !== "blocked";
    this.enforcement = null;
    this.show({kind: "blocked", decision, request, isNew});
    if (isNew) this.seen("blocked", this);
  }

  failed(error) {
    if (error.status === 409) {
      this.sessionId = null;
      this.enforcement = null;
      this.show({kind: "displaced", by: words.device(error.body.device_type), isNew: true});
      this.seen("displaced", this);
      return null;
    }
    this.sessionId = null;
    this.show({kind: "failed", message: error.message, isNew: this.state.kind !== "failed"});
    return 6 * BLOCKED_MS;
  }

  async endSession(options) {
    const id = this.sessionId;
    this.sessionId = null;
    if (id === null) return;
    try {
      await this.api.post(`${VIEWING}/session/${id}/end`, undefined, options);
    } catch {
      // The next session to start ends this one too.
    }
  }

  // The child asks its parents for more time.
  async ask(minutes) {
    const answer = await this.api.post(`${VIEWING}/requests`, {
      profile_id: this.child.profile_id,
      minutes,
      message: "Only this episode, please!",
      device_id: this.device.id,
    });
    this.requestId = answer.request_id;
    this.seen("asked", this);
    await this.run();
  }

  // A parent beside the child types the PIN on the player.
  async grant(minutes, pin) {
    const path = `/api/v1/parental-controls/profiles/${this.child.profile_id}/viewing-time/grant`;
    await this.api.post(path, {minutes, pin});
    this.seen("granted", this);
    await this.run();
  }
}
