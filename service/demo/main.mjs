// Puts the players, the phone and the record of requests together.

import {Api} from "./api.mjs";
import {Calls} from "./calls.mjs";
import {follow} from "./events.mjs";
import {Phone} from "./phone.mjs";
import {Player} from "./player.mjs";
import {Screen} from "./screen.mjs";

const SPEEDS = [
  [1, "real time", "1 second is 1 second"],
  [30, "×30", "1 second is half a minute"],
  [60, "×60", "1 second is 1 minute"],
  [300, "×300", "1 second is 5 minutes"],
];
const DEVICES = [["tv", "living-room-tv"], ["tablet", "kitchen-tablet"]];
// What marks each step of the list as done.
const STEPS = {allowed: "play", warning_15: "warning", warning_5: "warning"};

const byId = (id) => document.getElementById(id);
const clock = {speed: 60};

function say(id, text) {
  byId(id).textContent = text;
}

function seen(name) {
  for (const step of name.startsWith("warning") ? ["play", "warning"] : [STEPS[name] ?? name]) {
    byId(`step-${step}`)?.classList.add("done");
  }
}

function offerSpeeds(players) {
  for (const [speed, text, title] of SPEEDS) {
    const input = Object.assign(document.createElement("input"), {type: "radio", name: "speed", value: speed});
    input.checked = speed === clock.speed;
    if (input.checked) say("pace", title);
    input.addEventListener("change", () => {
      clock.speed = speed;
      say("pace", title);
      for (const player of players) player.retime();
    });
    const label = document.createElement("label");
    label.append(input, text);
    byId("speeds").append(label);
  }
}

async function start() {
  const answer = await fetch("/demo/family.json", {cache: "no-store"});
  const family = await answer.json();
  if (!answer.ok) throw new Error(`${family.detail}.`);
  byId("credit").hidden = family.credit === "beats";
  const calls = new Calls();
  const api = new Api(family.token, (call) => calls.record(call));
  const phone = new Phone(api, family, seen, (text) => say("said", text));
  const players = DEVICES.map(([type, id]) => {
    const outlets = {titles: family.titles, say: (text) => say("said", text), alarm: (text) => say("alarm", text)};
    const screen = new Screen(byId(type), outlets);
    const player = new Player(api, {id, type}, clock, screen, seen);
    screen.control(player, (titleId) => player.choose(player.child, titleId));
    return player;
  });
  offerSpeeds(players);

  async function choose(child) {
    await Promise.all(players.map((player) => player.choose(child, player.screen.find(".titles").value)));
    await phone.choose(child);
    for (const player of players) player.screen.timeZone = phone.timeZone;
  }

  const select = byId("child");
  for (const {profile_id: id, name} of family.children) select.add(new Option(name, id));
  select.addEventListener("change", () =>
    phone.act(() => choose(family.children.find(({profile_id: id}) => id === select.value))));
  const over = byId("over");
  over.addEventListener("click", async () => {
    if (over.ariaBusy === "true") return;
    over.ariaBusy = "true";
    await Promise.all(players.map((player) => player.stop()));
    await phone.act(() => phone.startOver());
    for (const step of document.querySelectorAll("#steps li")) step.classList.remove("done");
    over.ariaBusy = "false";
  });
  follow(api, (event) => phone.happened(event), (isLive) => {
    byId("live").textContent = isLive ? "live" : "connecting";
    byId("live").classList.toggle("on", isLive);
  });
  await choose(family.children[0]);
}

start().catch((error) => {
  byId("fault").textContent = error.message;
  byId("fault").hidden = false;
});
