// The screen of a player: the title, the countdown, warnings, and the block screen.

import * as words from "./words.mjs";

const BEAT_SECONDS = 30;

export class Screen {
  constructor(element, {titles, say, alarm}) {
    Object.assign(this, {element, say, alarm, timeZone: "UTC"});
    this.name = element.querySelector("h2").textContent;
    element.append(document.getElementById("player").content.cloneNode(true));
    this.find = (selector) => element.querySelector(selector);
    this.titles = titles;
    for (const {title_id: id, name, is_educational: isLesson} of titles) {
      this.find(".titles").append(new Option(isLesson ? `${name} (lesson)` : name, id));
    }
    setInterval(() => this.count(), 200);
  }

  // Connects the buttons with the player.
  control(player, chosen) {
    this.player = player;
    const act = async (does) => {
      this.fault(null);
      try {
        await does();
      } catch (error) {
        this.fault(error.message);
      }
    };
    this.find(".play").addEventListener("click", () =>
      act(() => player.isPlaying ? player.pause() : player.play()));
    this.find(".stop").addEventListener("click", () => act(() => player.stop()));
    this.find(".titles").addEventListener("change", (event) => act(() => chosen(event.target.value)));
    this.find(".ask").addEventListener("click", () => act(() => player.ask(30)));
    this.find(".pin-grant").addEventListener("submit", (event) => {
      event.preventDefault();
      const pin = this.find(".pin-grant .pin");
      const typed = pin.value;
      pin.value = "";
      act(() => player.grant(30, typed));
    });
  }

  fault(message) {
    const shown = this.find(":scope > .fault");
    shown.textContent = message ?? "";
    shown.hidden = message === null;
  }

  show(state) {
    this.state = state;
    const {kind} = state;
    const title = this.titles.find(({title_id: id}) => id === this.find(".titles").value);
    this.element.dataset.kind = kind;
    this.element.dataset.title = title.is_educational ? "planets" : "boat";
    this.element.dataset.enforcement = state.verdict?.enforcement ?? "";
    this.find(".title").textContent = title.name;
    this.find(".play").textContent =
      {playing: "Pause", paused: "Continue", displaced: "Play here"}[kind] ?? "Play";
    this.banner(state);
    const focused = this.element.contains(document.activeElement) ? document.activeElement : null;
    this.message(state);
    if (focused?.checkVisibility() === false) this.find(".play").focus({preventScroll: true});
    this.count();
  }

  // The warning, which a screen reader says once.
  banner({verdict, isNew}) {
    const isWarning = verdict?.enforcement.startsWith("warning") ?? false;
    const text = isWarning ? `${words.left(verdict.remaining_minutes)} left` : "";
    const banner = this.find(".banner");
    banner.hidden = !isWarning;
    banner.textContent = text;
    if (isWarning && isNew) this.say(`${this.name}: ${text}.`);
  }

  message(state) {
    const [head, why, then] = this.texts(state);
    const message = this.find(".message");
    message.hidden = head === null;
    this.find(".head").textContent = head ?? "";
    this.find(".why").textContent = why ?? "";
    this.find(".then").textContent = then ?? "";
    this.find(".then").hidden = !then;
    const isLimit = ["daily_limit", "weekly_limit"].includes(state.decision?.reason);
    this.find(".more").hidden = state.kind !== "blocked" || !isLimit;
    this.find(".ask").hidden = state.request?.status === "pending" || state.request?.status === "denied";
    if (state.isNew && head !== null) this.alarm(`${this.name}: ${head}. ${why ?? ""}`);
  }

  texts({kind, decision, request, by, message}) {
    if (kind === "idle") return ["Ready", null, null];
    if (kind === "paused") return ["Paused", null, "A pause counts for its first five minutes."];
    if (kind === "displaced") return ["Playing elsewhere", `A ${by} plays now.`, null];
    if (kind === "failed") return ["Stopped", words.REASONS.unreachable, message];
    if (kind !== "blocked") return [null, null, null];
    return ["Blocked", words.REASONS[decision.reason], this.outlook(decision, request)];
  }

  outlook(decision, request) {
    if (request?.status === "pending") return "You have asked. A parent has not answered yet.";
    if (request?.status === "denied") return "A parent has said no.";
    const at = decision.next_allowed_at;
    return at === null ? "Ask a parent." : `The next viewing is possible ${words.clock(at, this.timeZone)}.`;
  }

  // Between heartbeats the countdown goes on by itself, for at most the 30 seconds of one. Lessons
  // may be free, so theirs does not.
  count() {
    const {kind, verdict, speed, at} = this.state ?? {};
    const count = this.find(".count");
    count.hidden = verdict === undefined;
    if (verdict === undefined) return;
    if (verdict.remaining_minutes === null) {
      count.textContent = "no limit";
      return;
    }
    const isRunning = kind === "playing" && !verdict.is_educational;
    const gone = isRunning ? Math.min(BEAT_SECONDS, speed * (performance.now() - at) / 1000) : 0;
    count.textContent = words.countdown(verdict.remaining_minutes * 60 - gone);
  }
}
