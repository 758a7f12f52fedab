// The server's events, over fetch: an EventSource sends no Authorization.

const SILENT = 5000; // milliseconds without news after which the connection counts as lost
const RETRIES = [500, 1000, 2000, 4000, 8000];

export class Stream {
  /** on.state(told), on.connected(), on.lost(why) and on.denied(why), which ends it until open(). */
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.failed = 0;
  }

  /** Connects, and again whenever that ends. */
  async open(authorization) {
    const mine = (this.current = new Object()); // a later open() ends this one
    while (this.current === mine) {
      let why = "the server has ended it";
      try {
        if (await this.read(authorization, mine)) return;
      } catch (error) {
        why = error.name === "AbortError" ? "the server says nothing" : "the server cannot be reached";
      }
      if (this.current !== mine) return;
      this.on.lost(this.why ?? why);
      this.why = null;
      await new Promise((done) => setTimeout(done, RETRIES[Math.min(this.failed++, RETRIES.length - 1)]));
    }
  }

  /** Until the end. Whether there is no use in trying again. */
  async read(authorization, mine) {
    const abort = new AbortController();
    let silent = setTimeout(() => abort.abort(), SILENT);
    try {
      const response = await fetch(this.url, {
        cache: "no-store",
        headers: authorization ? { authorization } : {},
        signal: abort.signal,
      });
      if (response.status === 401 || response.status === 403) {
        this.on.denied((await response.json()).error);
        return true;
      }
      if (!response.ok) {
        this.why = (await response.text()).trim();
        return false;
      }
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (let part; !(part = await reader.read()).done && this.current === mine; ) {
        text += part.value;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          clearTimeout(silent);
          silent = setTimeout(() => abort.abort(), SILENT);
          this.failed = 0;
          this.on.state(JSON.parse(event.slice(event.indexOf("data: ") + 6)));
        }
      }
      return false;
    } finally {
      clearTimeout(silent);
      abort.abort();
    }
  }
}
