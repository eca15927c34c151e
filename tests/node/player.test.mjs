import assert from "node:assert/strict";
import { test } from "node:test";

import { Player } from "../../examples/player.mjs";
import { Child, failing, paid, reply, Service } from "./faults.mjs";
import { seeded, VirtualTime } from "./virtual_time.mjs";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** A player in front of a child; the service behind it has faults at the rate `rates.now`. */
function household({ seed = 1, rate = 0, ...options } = {}) {
  const time = new VirtualTime();
  const service = new Service(time);
  const child = new Child(time);
  const random = seeded(seed);
  const rates = { now: rate };
  const { now, setTimeout, clearTimeout } = time;
  const player = new Player({
    baseUrl: "http://viewing.test",
    token: () => "t",
    profileId: "p",
    deviceId: "d",
    deviceType: "tv",
    show: child.show,
    fetch: failing(service.fetch, time, random, rates),
    now,
    setTimeout,
    clearTimeout,
    random,
    ...options,
  });
  return { time, service, child, player, rates };
}

/** Lets time pass while the service cannot be reached. */
async function outage({ time, service }, milliseconds) {
  for (let n = 0; n < 1000; n++) service.answers.push(() => Promise.reject(new TypeError("down")));
  await time.pass(milliseconds);
  service.answers.length = 0;
}

/** Stops the player, also if that takes virtual time. */
async function stop({ player, time }) {
  const stopped = player.stop();
  await time.pass(MINUTE);
  await stopped;
}

test("sends a heartbeat every 30 seconds, in one session, each with a key of its own", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(HOUR - 1000);
  await stop(home);
  const beats = home.service.heartbeats();
  assert.equal(beats.length, 120);
  assert.deepEqual(beats.map(([at]) => at), Array.from(beats, (_, n) => n * 30_000));
  assert.equal(home.service.keys.size, 120);
  assert.equal(home.service.sessions.size, 1);
  assert.equal(home.service.calls.at(-1)[1], "POST session");
});

test("credits what was watched, and nothing twice, whatever is lost or late", async () => {
  for (let seed = 1; seed <= 40; seed++) {
    const home = household({ seed, rate: 0.1 + (seed % 5) / 10 });
    home.player.start("film");
    await home.time.pass(HOUR);
    home.rates.now = 0;
    await home.time.pass(MINUTE - 1);
    await stop(home);
    assert.equal(home.service.usedSeconds, paid(home.child.pictureSeconds), `seed ${seed}`);
    assert.ok(home.child.pictureSeconds > 600, `seed ${seed}`);
  }
});

test("credits what was watched by a child who stops, pauses and starts at random", async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const home = household({ seed, rate: 0.3 });
    const random = seeded(1000 + seed);
    let expected = 0;
    for (let n = 0; n < 5; n++) {
      const before = home.child.pictureSeconds;
      home.player.start(`film-${n}`);
      await home.time.pass(5 * MINUTE * random());
      for (let pause = 0; pause < 20; pause++) {
        home.player.pause(); // a pause of less than five minutes counts like viewing
        await home.time.pass(30_000 * random());
        home.player.resume();
        await home.time.pass(20_000 * random());
      }
      home.rates.now = 0;
      await home.time.pass(MINUTE - 1);
      await stop(home);
      home.rates.now = 0.3;
      expected += paid(home.child.pictureSeconds - before);
    }
    assert.equal(home.service.usedSeconds, expected, `seed ${seed}`);
  }
});

test("repeats a heartbeat with the same key, after a back-off and Retry-After", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(1000);
  const busy = (seconds) => () => reply(503, { detail: "" }, { "Retry-After": seconds });
  home.service.answers.push(() => Promise.reject(new TypeError("down")), busy("7"));
  await home.time.pass(58_000);
  const [, first, second, third] = home.service.heartbeats();
  assert.equal(first[0], 30_000);
  assert.ok(second[0] >= 30_250 && second[0] <= 30_500);
  assert.equal(third[0], second[0] + 7_000);
  assert.equal(new Set([first[3], second[3], third[3]]).size, 1);
  assert.equal(home.service.usedSeconds, 60);
  await stop(home);
});

test("stops the picture 30 seconds after the first heartbeat that is not answered", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(60_500);
  await outage(home, 10 * MINUTE);
  const { screen, at } = home.child.last;
  assert.deepEqual([screen, at], ["unreachable", 120]);
  assert.equal(home.child.pictureSeconds, 120);
  await home.time.pass(MINUTE);
  assert.equal(home.child.last.screen, "playing");
  await stop(home);
  assert.equal(home.service.usedSeconds, paid(home.child.pictureSeconds));
});

test("shows no picture before the service has answered", async () => {
  const home = household();
  home.player.start("film");
  await outage(home, MINUTE);
  assert.equal(home.child.pictureSeconds, 0);
  assert.deepEqual(home.child.names(), ["unreachable"]);
  await home.time.pass(MINUTE);
  assert.equal(home.child.last.screen, "playing");
  await stop(home);
});

test("delivers the heartbeat that is owed when a title is stopped during an outage", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(29_000);
  await outage(home, 6_000);
  await stop(home);
  assert.equal(home.child.pictureSeconds, 35);
  assert.equal(home.service.usedSeconds, 60);
});

test("gives up 30 seconds after a title is stopped if the outage goes on", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(29_000);
  await outage(home, 6_000);
  const down = () => Promise.reject(new TypeError("down"));
  home.service.answers.push(...Array.from({ length: 100 }, () => down));
  await stop(home);
  assert.ok(home.service.calls.at(-1)[0] < 35_000 + 30_000 + 8_000);
});

test("goes on with heartbeats that say so while it is paused", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(40_000);
  home.player.pause();
  await home.time.pass(40_000);
  home.player.resume();
  await home.time.pass(25_000);
  assert.deepEqual(
    home.service.heartbeats().map(([, , body]) => body.is_paused),
    [false, false, true, false],
  );
  await stop(home);
});

test("says which device plays, and leaves its session alone", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(1000);
  const details = { device_type: "tablet", ended_at: "2026-11-25T12:00:00Z" };
  home.service.answers.push((_, body) => body.exclusive && reply(409, { detail: "", ...details }));
  await home.time.pass(5 * MINUTE);
  const { screen, deviceType, endedAt } = home.child.last;
  assert.deepEqual([screen, deviceType, endedAt], ["displaced", "tablet", details.ended_at]);
  assert.equal(home.service.calls.at(-1)[1], "POST heartbeat");
  assert.equal(home.service.heartbeats().length, 2);
  home.player.start("film");
  await home.time.pass(1000);
  assert.equal(home.child.last.screen, "playing");
  assert.equal(home.service.sessions.size, 2);
  await stop(home);
});

test("sends no heartbeat for the time that a device was asleep", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(10 * MINUTE - 1000);
  home.time.sleep(8 * HOUR);
  await home.time.pass(10 * MINUTE);
  await stop(home);
  const beats = home.service.heartbeats();
  assert.equal(beats.length, 41);
  assert.equal(home.service.usedSeconds, 41 * 30);
  assert.equal(home.service.sessions.size, 1);
});

test("starts a session if its own was deleted meanwhile", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(1000);
  home.time.sleep(HOUR);
  home.service.sessions.clear();
  await home.time.pass(MINUTE);
  assert.equal(home.service.sessions.size, 1);
  assert.equal(home.child.last.screen, "playing");
  await stop(home);
});

test("warns once at 15 and once at 5 minutes, and again after a grant", async () => {
  const home = household();
  home.service.limitSeconds = 20 * 60;
  home.player.start("film");
  await home.time.pass(18 * MINUTE);
  const warnings = () => home.child.screens.filter(({ screen }) => screen === "warning");
  assert.deepEqual(warnings().map((each) => each.remainingMinutes), [15, 5]);
  home.service.limitSeconds += 600;
  await home.time.pass(8 * MINUTE);
  assert.deepEqual(warnings().map((each) => each.remainingMinutes), [15, 5, 5]);
  home.service.limitSeconds += 1200;
  await home.time.pass(10 * MINUTE);
  assert.deepEqual(warnings().map((each) => each.remainingMinutes), [15, 5, 5, 15]);
  assert.ok(home.child.screens.every(({ screen, remainingMinutes }) => screen && remainingMinutes));
  await stop(home);
});

test("blocks with the reason, asks for more time, and is ready after a grant", async () => {
  const home = household();
  home.service.limitSeconds = 120;
  home.player.start("film");
  await home.time.pass(5 * MINUTE);
  const { screen, reason, mayAsk, request, nextAllowedAt } = home.child.last;
  assert.deepEqual([screen, reason, mayAsk, request], ["blocked", "daily_limit", true, null]);
  assert.equal(nextAllowedAt, "2026-11-26T06:00:00Z");
  assert.equal(home.service.heartbeats().length, 4); // none while the block screen shows
  assert.deepEqual(await home.player.ask(30, "Until the end?"), { status: "pending" });
  await home.time.pass(100);
  assert.deepEqual([home.child.last.request, home.child.last.mayAsk], ["pending", false]);
  home.service.request = "denied";
  await home.time.pass(MINUTE);
  assert.deepEqual([home.child.last.request, home.child.last.mayAsk], ["denied", true]);
  home.service.limitSeconds = 300;
  await home.time.pass(30_000);
  assert.equal(home.child.last.screen, "ready");
  home.player.start("film");
  await home.time.pass(1000);
  assert.equal(home.service.sessions.size, 2);
  assert.equal(home.child.last.screen, "warning"); // once more, after the block
  await stop(home);
});

test("counts nothing if it starts while a rule blocks, and does not offer to ask", async () => {
  const home = household();
  home.service.reason = "downtime";
  home.player.start("film");
  await home.time.pass(MINUTE);
  assert.deepEqual([home.child.last.reason, home.child.last.mayAsk], ["downtime", false]);
  assert.equal(home.service.heartbeats().length, 0);
  await stop(home);
});

test("repeats a heartbeat that was blocked because it could not be counted", async () => {
  const home = household();
  home.player.start("film");
  await home.time.pass(1000);
  const closed = { session_id: "s", enforcement: "blocked", remaining_minutes: 0, used_minutes: 0 };
  home.service.answers.push(() => reply(200, closed));
  await home.time.pass(35_000);
  const [, first, second] = home.service.heartbeats();
  assert.equal(first[3], second[3]);
  assert.deepEqual(home.child.names(), ["playing", "blocked", "unreachable", "playing"]);
  await stop(home);
});

test("renews a token that is rejected, once, and obeys other refusals at once", async () => {
  const rejected = [];
  const home = household({ token: async (isRejected) => rejected.push(isRejected) && "t" });
  home.player.start("film");
  await home.time.pass(1000);
  home.service.answers.push(() => reply(401, { detail: "Invalid or expired token" }));
  await home.time.pass(30_000);
  assert.deepEqual(rejected, [false, false, false, true]);
  assert.equal(home.child.last.screen, "playing");
  home.service.answers.push(() => reply(403, { detail: "Profile not found or access denied" }));
  await home.time.pass(5 * MINUTE);
  const { screen, status, detail } = home.child.last;
  assert.deepEqual([screen, status], ["refused", 403]);
  assert.equal(detail, "Profile not found or access denied");
  assert.equal(home.service.heartbeats().length, 4);
});

test("does not wait for the next day when the requests of this one are used up", async () => {
  const home = household();
  home.service.reason = "daily_limit";
  home.player.start("film");
  await home.time.pass(1000);
  const detail = "At most 5 requests a viewing day";
  home.service.answers.push(() => reply(429, { detail }, { "Retry-After": "30000" }));
  assert.deepEqual(await home.player.ask(15), { status: "refused", detail });
  await stop(home);
});

test("plays only the latest of titles that are started at once", async () => {
  const home = household();
  home.player.start("first");
  home.player.start("second");
  await home.time.pass(1000);
  assert.deepEqual(home.service.heartbeats().map(([, , body]) => body.title_id), ["second"]);
  await stop(home);
});
