import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { LimiterError } from "./errors.js";
import { type Call, Limiter } from "./limiter.js";

const { values: options } = parseArgs({
  options: {
    address: { type: "string", default: "localhost:50051" },
    model: { type: "string", default: "gpt-4o" },
    tokens: { type: "string", default: "100" },
    used: { type: "string", default: "40" },
    label: { type: "string" },
    "max-wait": { type: "string", default: "30" },
    timeout: { type: "string", default: "5" },
    calls: { type: "string", default: "1" },
    work: { type: "string", default: "0.05" },
  },
});

function print(event: string, facts: object): void {
  console.log(JSON.stringify({ event, ...facts }));
}

async function main(): Promise<void> {
  const limiter = new Limiter(options.address, { timeout: Number(options.timeout) });
  const [name, value] = options.label?.split("=") ?? [];
  const call: Call = {
    model: options.model,
    tokens: Number(options.tokens),
    labels: name && value ? { [name]: value } : {},
    maxWait: Number(options["max-wait"]),
  };
  try {
    print("health", { status: await limiter.health() });
    for (let count = 0; count < Number(options.calls); count++) {
      await limiter.limit(call, async (reservation) => {
        const { id, wait, limitedBy, queued } = reservation;
        print("granted", {
          reservation: id,
          wait,
          limited_by: limitedBy,
          queued,
          retries: limiter.retries,
        });
        await sleep(Number(options.work) * 1000); // here the API is called
        const settled = await reservation.settle(Number(options.used));
        print("settled", { reservation: id, settled, retries: limiter.retries });
      });
    }
  } catch (error) {
    if (!(error instanceof LimiterError)) throw error;
    const { code, reason, metadata, retryAfter, message } = error;
    print("refused", { code, reason, metadata, retry_after: retryAfter ?? null, message });
    process.exitCode = 1;
  } finally {
    limiter.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 2;
});
