// A clock and timers that a test moves, and a random generator with a seed.

export class VirtualTime {
  #at = 0;
  #timers = [];
  #made = 0;
  pending = 0; // requests to a real service, for which time stands still

  now = () => this.#at;

  setTimeout = (call, milliseconds) => {
    const timer = { at: this.#at + milliseconds, number: this.#made++, call };
    this.#timers.push(timer);
    return timer;
  };

  clearTimeout = (timer) => {
    this.#timers = this.#timers.filter((each) => each !== timer);
  };

  wait = (milliseconds) => new Promise((resolve) => this.setTimeout(resolve, milliseconds));

  /** Moves the clock without calling timers: the device was asleep. */
  sleep(milliseconds) {
    this.#at += milliseconds;
  }

  /** Lets time pass; calls every timer at its time. */
  async pass(milliseconds) {
    const end = this.#at + milliseconds;
    for (;;) {
      await this.#settle();
      const [next] = this.#timers.sort((a, b) => a.at - b.at || a.number - b.number);
      if (!next || next.at > end) break;
      this.clearTimeout(next);
      this.#at = Math.max(this.#at, next.at);
      next.call();
    }
    this.#at = Math.max(this.#at, end);
  }

  async #settle() {
    do await new Promise((resolve) => setImmediate(resolve));
    while (this.pending);
  }
}

/** Numbers from 0 to 1, the same ones for the same seed (mulberry32). */
export function seeded(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
