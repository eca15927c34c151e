// Watches a real service for hours of virtual time, with faults; prints what it has to pay.
//
//   node watch.mjs URL TOKEN PROFILE TITLE SEED RATE

import { Player } from "../../examples/player.mjs";
import { Child, failing, paid, reply } from "./faults.mjs";
import { seeded, VirtualTime } from "./virtual_time.mjs";

const [baseUrl, token, profileId, titleId, seed, rate] = process.argv.slice(2);
const MINUTE = 60_000;
const time = new VirtualTime();
const child = new Child(time);
const random = seeded(Number(seed));
const rates = { now: Number(rate) };

/** Time stands still until the whole answer is here. */
async function real(url, init) {
  time.pending++;
  try {
    const answer = await fetch(url, { ...init, signal: undefined });
    const headers = { "Retry-After": answer.headers.get("Retry-After") };
    return reply(answer.status, await answer.json(), headers);
  } finally {
    time.pending--;
  }
}

const { now, setTimeout, clearTimeout } = time;
const player = new Player({
  baseUrl,
  token: () => token,
  profileId,
  deviceId: "living-room",
  deviceType: "tv",
  show: child.show,
  fetch: failing(real, time, random, rates),
  now,
  setTimeout,
  clearTimeout,
  random,
});
let expected = 0;
for (let n = 0; n < 4; n++) {
  const before = child.pictureSeconds;
  player.start(titleId);
  await time.pass(20 * MINUTE * random());
  for (let pause = 0; pause < 10; pause++) {
    player.pause(); // a pause of less than five minutes counts like viewing
    await time.pass(MINUTE * random());
    player.resume();
    await time.pass(MINUTE * random());
  }
  rates.now = 0;
  await time.pass(MINUTE - 1);
  const stopped = player.stop();
  await time.pass(MINUTE);
  await stopped;
  rates.now = Number(rate);
  expected += paid(child.pictureSeconds - before);
}
console.log(JSON.stringify({ expected, screens: [...new Set(child.names())].sort() }));
