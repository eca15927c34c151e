// The latest requests, and one of them as a curl line with its answer.

import {curl} from "./api.mjs";

const KEPT = 7;
const byId = (id) => document.getElementById(id);

export class Calls {
  constructor() {
    this.calls = []; // the newest first; a repeated one keeps its place
    this.chosen = null; // by the reader; null: the newest
    byId("copy").addEventListener("click", () => this.copy());
  }

  record(call) {
    const name = `${call.method} ${call.path}`;
    const earlier = this.calls.find((each) => each.name === name);
    if (call.quiet && earlier !== undefined) {
      Object.assign(earlier, call, {quiet: earlier.quiet, count: earlier.count + 1});
    } else {
      const item = this.item();
      const added = {...call, name, count: 1, item};
      item.querySelector("button").addEventListener("click", () => {
        this.chosen = added;
        this.show();
      });
      this.calls.unshift(added);
      byId("calls").prepend(item);
      if (!call.quiet) this.chosen = null;
    }
    while (this.calls.length > KEPT) {
      const last = this.calls.findLast((each) => each !== this.chosen);
      this.calls.splice(this.calls.indexOf(last), 1);
      last.item.remove();
    }
    this.show();
  }

  item() {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), {type: "button"});
    for (const name of ["verb", "path", "times", "status"]) {
      button.append(Object.assign(document.createElement("span"), {className: name}), " ");
    }
    item.append(button);
    return item;
  }

  // The request on display: what the reader has chosen, or else the latest that somebody has caused.
  get shown() {
    return this.chosen ?? this.calls.find((call) => !call.quiet) ?? this.calls[0];
  }

  show() {
    const shown = this.shown;
    for (const call of this.calls) {
      const part = (name) => call.item.querySelector(`.${name}`);
      write(part("verb"), call.method);
      write(part("path"), call.path.replace("/api/v1/", "").replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "…"));
      write(part("times"), call.count > 1 ? `×${call.count}` : "");
      write(part("status"), String(call.status ?? "–"));
      call.item.dataset.failed = String(!(call.status < 400));
      call.item.querySelector("button").setAttribute("aria-current", String(call === shown));
    }
    write(byId("curl"), curl(shown, "$TOKEN").replaceAll(" -H ", " \\\n  -H ").replaceAll(" -d ", " \\\n  -d "));
    write(byId("status"), shown.status === null ? "" : String(shown.status));
    const {answer} = shown;
    write(byId("answer"), typeof answer === "string" ? answer : JSON.stringify(answer, null, 2));
  }

  // The copy has the whole token, so that it works in a terminal.
  async copy() {
    const button = byId("copy");
    try {
      await navigator.clipboard.writeText(curl(this.shown));
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("curl"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
}

// Changes nothing that is the same, so that selected text stays selected.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
