// The parent's phone: what the child has left, requests, and every rule that a parent can set.

import * as words from "./words.mjs";

const VIEWING = "/api/v1/viewing-time";
const PARENTAL = "/api/v1/parental-controls";
const EVERY_DAY = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const REFRESH_MS = 1000;
const KEPT_NEWS = 6;
const MAX_GRANT = 120;

const byId = (id) => document.getElementById(id);

export class Phone {
  // `done` is called with the name of each thing that the parent has done.
  constructor(api, family, done, say) {
    Object.assign(this, {api, family, done, say, pinToken: null, isLocked: false});
    this.edited = new Set(); // fields that differ from the stored rules, until they are set
    for (const id of ["limit", "from", "until"]) {
      for (const type of ["input", "change"]) byId(id).addEventListener(type, () => this.edited.add(id));
    }
    this.on("grant-form", "submit", (event) => this.grant(event.submitter.value));
    this.on("limit-form", "submit", () => this.setLimit(byId("limit").value));
    this.on("downtime-form", "submit", () => this.setDowntime(byId("from").value, byId("until").value));
    this.on("no-downtime", "click", () => this.setDowntime());
    this.on("lock", "click", () => this.toggleLock());
    this.on("pin-form", "submit", () => this.confirm());
    this.on("pin-reset", "click", () => this.resetPin());
    this.on("lessons", "change", () => this.setLessons(byId("lessons").checked));
    setInterval(() => this.refresh().catch(() => {}), REFRESH_MS);
  }

  on(id, type, does) {
    byId(id).addEventListener(type, (event) => {
      if (type === "submit") event.preventDefault();
      this.act(() => does(event));
    });
  }

  // Carries out what the parent has asked for, and shows the sentence of a refusal.
  async act(does) {
    const fault = byId("phone-fault");
    fault.hidden = true;
    try {
      await does();
    } catch (error) {
      const until = error.lockedUntil ? ` It is locked until ${new Date(error.lockedUntil).toLocaleTimeString()}.` : "";
      fault.textContent = error.message.replace(/\.?$/, ".") + until;
      fault.hidden = false;
      if (error.lockedUntil) byId("pin-reset").hidden = false;
    }
    await this.refresh().catch(() => {});
  }

  get profile() {
    return `${PARENTAL}/profiles/${this.child.profile_id}`;
  }

  // Members of a request that carries the proof of the PIN, if the parent has given it.
  get proof() {
    return this.pinToken ? {headers: {"X-PIN-Token": this.pinToken}} : {};
  }

  async choose(child) {
    this.child = child;
    this.edited.clear();
    byId("phone-child").textContent = child.name;
    await this.readRules();
    await this.refresh();
    const {requests} = await this.api.get(`${PARENTAL}/requests?status=pending`, {quiet: true});
    byId("requests").replaceChildren();
    for (const request of requests) if (request.profile_id === child.profile_id) this.ask(request);
  }

  // The rules as they are stored, in the fields of the phone.
  async readRules() {
    const rules = await this.api.get(`${this.profile}/viewing-time`, {quiet: true});
    this.timeZone = rules.timezone;
    byId("zone").textContent = `(${rules.timezone})`;
    byId("lessons").checked = rules.educational_exempt;
    const limit = byId("limit");
    const value = String(rules.weekday_limit_minutes ?? "");
    if (![...limit.options].some((option) => option.value === value)) {
      limit.add(new Option(`${value} minutes`, value));
    }
    if (!this.edited.has("limit")) limit.value = value;
    const {downtime} = await this.api.get(`${this.profile}/schedule`, {quiet: true});
    byId("downtime").textContent = downtime.map(({start, end}) => `${start} – ${end}`).join(", ") || "No downtime.";
    byId("no-downtime").hidden = downtime.length === 0;
    if (this.edited.has("from") || this.edited.has("until")) return;
    [byId("from").value, byId("until").value] = downtime.length
      ? [downtime[0].start, downtime[0].end]
      : [this.wallClock(0), this.wallClock(60)];
  }

  // The time on the child's clock, some minutes from now, as HH:MM.
  wallClock(minutes) {
    const at = new Date(Date.now() + 60_000 * minutes);
    const form = {timeZone: this.timeZone, hour: "2-digit", minute: "2-digit", hourCycle: "h23"};
    return new Intl.DateTimeFormat("en-GB", form).format(at);
  }

  async refresh() {
    if (this.child === undefined) return;
    const asked = this.child;
    const decision = await this.api.get(`${VIEWING}/decision/${asked.profile_id}`, {quiet: true});
    if (asked !== this.child) return;
    const {remaining_minutes: remaining, reason, enforcement, rules} = decision;
    const rule = (name) => rules.find((each) => each.rule === name);
    const daily = rule("daily_limit");
    byId("left").textContent = remaining === null ? "No limit today" : `${words.left(remaining)} left`;
    const isLimited = !daily.is_lifted && daily.limit_minutes !== null;
    byId("used").textContent = `${daily.used_minutes}${isLimited ? ` of ${daily.limit_minutes}` : ""} minutes used`;
    byId("share").value = daily.limit_minutes ? Math.min(1, daily.used_minutes / daily.limit_minutes) : 0;
    const state = byId("state");
    state.dataset.enforcement = enforcement;
    state.textContent = reason === null
      ? {allowed: "may watch", warning_15: "15 minutes or less", warning_5: "5 minutes or less"}[enforcement]
      : `blocked: ${words.RULES[reason]}`;
    this.isLocked = rule("locked").remaining_minutes === 0;
    byId("lock").textContent = this.isLocked ? "Unlock" : "Lock now";
    byId("lock").setAttribute("aria-pressed", String(this.isLocked));
  }

  // An event of the stream.
  happened(event) {
    const child = this.family.children.find((each) => each.profile_id === event.profile_id);
    const text = words.event(event, child?.name);
    const item = document.createElement("li");
    const time = Object.assign(document.createElement("time"), {dateTime: event.occurred_at});
    time.textContent = new Date(event.occurred_at).toLocaleTimeString("en-GB");
    item.append(time, " ", text);
    const news = byId("news");
    news.querySelector(".quiet")?.remove();
    news.prepend(item);
    while (news.children.length > KEPT_NEWS) news.lastChild.remove();
    this.say(`Phone: ${text}`);
    if (child !== this.child) return;
    if (event.type === "request.created") {
      const path = `${VIEWING}/requests/${event.data.request_id}`;
      this.act(async () => this.ask(await this.api.get(path, {quiet: true})));
    } else if (event.type.startsWith("request.")) {
      this.card(event.data.request_id)?.remove();
    } else if (["configuration.changed", "schedule.changed"].includes(event.type)) {
      this.act(() => this.readRules());
    }
    this.refresh().catch(() => {});
  }

  card(requestId) {
    return byId("requests").querySelector(`[data-request="${requestId}"]`);
  }

  // A request of the child, with its two answers.
  ask({request_id: id, minutes, message}) {
    if (this.card(id)) return;
    const card = document.createElement("article");
    card.dataset.request = id;
    const text = document.createElement("p");
    text.textContent = `${this.child.name} asks for ${minutes ?? "unlimited"} more minutes. `;
    const quote = Object.assign(document.createElement("q"), {textContent: message ?? ""});
    if (message) text.append(quote);
    const row = Object.assign(document.createElement("div"), {className: "row"});
    for (const [name, answer] of [["Approve", "approve"], ["Deny", "deny"]]) {
      const button = Object.assign(document.createElement("button"), {type: "button", className: answer});
      button.textContent = name;
      button.addEventListener("click", () => this.act(() => this.decide(id, answer)));
      row.append(button);
    }
    card.append(text, row);
    byId("requests").append(card);
  }

  async decide(id, answer) {
    try {
      const body = answer === "approve" ? {} : undefined;
      await this.api.post(`${PARENTAL}/requests/${id}/${answer}`, body, this.proof);
    } finally {
      this.card(id)?.remove();
      byId("phone").focus({preventScroll: true}); // the button that had the focus is gone
    }
    this.done(answer === "approve" ? "approved" : "denied");
  }

  async grant(minutes) {
    const body = {minutes: minutes ? Number(minutes) : null};
    await this.api.post(`${this.profile}/viewing-time/grant`, body, this.proof);
    this.done("granted");
  }

  async setLimit(minutes) {
    this.edited.delete("limit");
    const limit = minutes ? Number(minutes) : null;
    const body = {weekday_limit_minutes: limit, weekend_limit_minutes: limit};
    await this.api.put(`${this.profile}/viewing-time`, body, this.proof);
    this.done("limit");
  }

  async setDowntime(start, end) {
    this.edited.delete("from");
    this.edited.delete("until");
    const downtime = start === undefined ? [] : [{days: EVERY_DAY, start, end}];
    await this.api.put(`${this.profile}/schedule`, {downtime}, this.proof);
    await this.readRules();
    this.done("downtime");
  }

  async toggleLock() {
    if (this.isLocked) await this.api.delete(`${this.profile}/lock`, this.proof);
    else await this.api.put(`${this.profile}/lock`, {}, this.proof);
    this.done("lock");
  }

  async confirm() {
    const pin = byId("pin").value;
    byId("pin").value = "";
    const {pin_token: token} = await this.api.post(`${PARENTAL}/pin/verify`, {pin});
    this.pinToken = token;
    byId("pin-state").textContent = "confirmed for five minutes";
    byId("pin-reset").hidden = true;
    clearTimeout(this.pinEnds);
    this.pinEnds = setTimeout(() => {
      this.pinToken = null;
      byId("pin-state").textContent = "";
    }, 300_000);
  }

  async resetPin() {
    const body = {password: this.family.password, new_pin: this.family.pin};
    await this.api.post(`${PARENTAL}/pin/reset`, body);
    this.pinToken = null; // it is about the PIN before
    byId("pin-reset").hidden = true;
    byId("pin-state").textContent = `it is ${this.family.pin} again`;
  }

  async setLessons(isExempt) {
    try {
      await this.api.put(`${this.profile}/viewing-time`, {educational_exempt: isExempt, ...(this.pinToken && {pin_token: this.pinToken})});
    } finally {
      await this.readRules();
    }
  }

  // The state in which the demo begins: no lock, no downtime, no grant, nothing used, two hours a day.
  async startOver() {
    await this.api.delete(`${this.profile}/lock`, this.proof);
    await this.setDowntime();
    await this.setLimit(120);
    const {grants, to: today} = await this.api.get(`${this.profile}/grants`);
    for (const {grant_id: id, date, mode, undone_at: undone} of grants) {
      if (date === today && undone === null && mode !== "credit") {
        await this.api.delete(`${this.profile}/grants/${id}`, this.proof);
      }
    }
    const decision = await this.api.get(`${VIEWING}/decision/${this.child.profile_id}`);
    let used = decision.rules.find(({rule}) => rule === "daily_limit").used_minutes;
    for (; used > 0; used -= MAX_GRANT) {
      const minutes = Math.min(MAX_GRANT, Math.max(15, Math.ceil(used)));
      await this.api.post(`${this.profile}/viewing-time/grant`, {minutes}, this.proof);
    }
    await this.readRules();
    await this.refresh();
  }
}
