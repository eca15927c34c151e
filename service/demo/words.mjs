// The sentences of the page, by the words of the API.

export const REASONS = {
  locked: "A parent has locked this profile.",
  downtime: "No viewing at this time of day.",
  daily_limit: "Today's viewing time is used up.",
  weekly_limit: "This week's viewing time is used up.",
  unreachable: "Viewing cannot be counted at the moment, so nothing plays.",
};

export const RULES = {
  locked: "lock",
  downtime: "downtime",
  daily_limit: "daily limit",
  weekly_limit: "weekly limit",
};

const DEVICES = {tv: "television", tablet: "tablet", mobile: "phone", web: "browser"};

const EVENTS = {
  "viewing.warning": (child, data) => `${child} has ${data.minutes} minutes left.`,
  "viewing.blocked": (child, data) => `${child} is blocked: ${RULES[data.reason]}.`,
  "session.displaced": (child) => `${child} has changed to another device.`,
  "request.created": (child, data) => `${child} asks for ${minutes(data.minutes)}.`,
  "request.approved": (child, data) => `You have given ${child} ${minutes(data.minutes)}.`,
  "request.denied": (child) => `You have denied ${child}'s request.`,
  "request.expired": (child) => `The day of ${child}'s request is over.`,
  "grant.created": (child, data) => `${child} has got ${minutes(data.minutes)}.`,
  "grant.undone": (child) => `A grant of ${child} was undone.`,
  "configuration.changed": (child) => `The limits of ${child} have changed.`,
  "schedule.changed": (child) => `The schedule of ${child} has changed.`,
  "lock.set": (child) => `${child} is locked.`,
  "lock.cleared": (child) => `${child} is unlocked.`,
  "pin.locked": () => "The PIN is locked: too many wrong PINs.",
  "viewing_data.erased": (child) => `The viewing data of ${child} was erased.`,
};

const minutes = (count) => count === null ? "the rest of the day" : `${count} minutes`;

export const device = (type) => DEVICES[type] ?? "another device";

export function event({type, data}, child) {
  return EVENTS[type]?.(child, data) ?? type;
}

// "1 minute", "12 minutes": whole minutes, rounded up as on a countdown.
export function left(remaining) {
  const count = Math.ceil(remaining);
  return `${count} ${count === 1 ? "minute" : "minutes"}`;
}

// "1:59:30" or "4:30".
export function countdown(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const [hours, rest, last] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(rest)}:${two(last)}` : `${rest}:${two(last)}`;
}

// A time on the clock of the child: "at 06:00", or "on Monday at 06:00" if it is not today.
export function clock(time, timeZone) {
  const day = (at) => new Intl.DateTimeFormat("en-GB", {timeZone, weekday: "long"}).format(at);
  const at = new Date(time);
  const text = new Intl.DateTimeFormat("en-GB", {timeZone, timeStyle: "short"}).format(at);
  return day(at) === day(new Date()) ? `at ${text}` : `on ${day(at)} at ${text}`;
}
