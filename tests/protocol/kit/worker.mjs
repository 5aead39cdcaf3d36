// A worker: one session that runs the kit's handlers.
//   node worker.mjs URL TENANT FORMAT SLOTS QUEUE     ends when its input does; a line for its session, and for each task it begins
import { connect } from "@nats-io/transport-node";
import { ask, formats } from "./wire.mjs";

const [url, tenant, format, slots, queue] = process.argv.slice(2);
const form = formats[format];
const nc = await connect({ servers: url });

const handlers = {
  echo: async (task) => task.payload,
  add: async (task) => task.payload.a + task.payload.b,
  flaky: async (task) => {
    if (task.attempt === 1) throw new RangeError("not at the first attempt");
    return task.attempt;
  },
  fail: async () => { throw Object.assign(new TypeError("never"), { fatal: true }); },
  sleep: (task, signal) => new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve("slept"), task.payload.ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
  }),
};

let session = "", at = "", subscription = null, beating = null;
let seen = 0, done = 0, leaving = false, registering = null;
const running = new Map(); // id → { attempt, stop }, until its outcome was answered
const newest = new Map(); // id → the highest attempt that came

// Begin a session, or go on with the one there is; one at a time.
const register = () => (registering ??= (async () => {
  for (;;) {
    try {
      const answer = await ask(nc, form, `foliot.v1.${tenant}.worker.register`, {
        session, name: "kit-node", slots: Number(slots), queues: [{ queue }],
      });
      if (answer.error) throw Object.assign(new Error(answer.error.text), answer.error);
      if (answer.session !== session) { // a new session: nothing that was held counts any more
        for (const each of running.values()) each.stop.abort("ended");
        running.clear();
        newest.clear();
        seen = 0;
        subscription?.unsubscribe();
        subscription = nc.subscribe(answer.bodies, { callback: (_, message) => take(form.unpack(message.data)) });
        await nc.flush();
      }
      session = answer.session;
      at = answer.subject;
      clearInterval(beating);
      beating = setInterval(beat, answer.heartbeat_interval_ms);
      return;
    } catch (error) {
      if (error.code === "session_forbidden") session = "";
      await new Promise((resolve) => setTimeout(resolve, 100));
    } finally {
      registering = null;
    }
  }
})());

// Tell this session's node something; if the node is gone, go on at another one.
async function tell(op, fields) {
  try {
    const answer = await ask(nc, form, `${at}.${op}`, { session, ...fields });
    if (answer.error?.code === "session_unknown" && !leaving) await begin();
    return answer;
  } catch (error) { // nobody listens there any more, or no answer came
    if (!leaving) await begin();
    return { error: { code: "unavailable", text: String(error) } };
  }
}

const begin = async () => { await register(); await offer(); await beat(); };
const credits = () => [{ queue, free: leaving ? 0 : Math.max(Number(slots) - running.size, 0), seen }];
const offer = () => tell("credits", { queues: credits() });
const beat = () => tell("heartbeat", {
  queues: credits(), done, draining: leaving,
  held: [...running].map(([id, each]) => ({ id, attempt: each.attempt })),
});

function take(push) {
  if (push.kind === "run") {
    for (const task of push.tasks) {
      if ((newest.get(task.id) ?? 0) >= task.attempt) continue; // it came before
      seen += task.cost;
      newest.set(task.id, task.attempt);
      run(task);
    }
  } else if (push.kind === "cancel") {
    for (const { id, attempt } of push.attempts) {
      if (running.get(id)?.attempt === attempt) running.get(id).stop.abort(push.reason);
    }
  } else if (push.kind === "moved") {
    begin();
  } else if (push.kind === "ended") {
    session = "";
    begin();
  }
}

async function run(task) {
  const mine = session, stop = new AbortController();
  running.set(task.id, { attempt: task.attempt, stop });
  const outcome = { id: task.id, attempt: task.attempt, started_ms: Date.now() };
  try {
    const handler = handlers[task.handler];
    if (!handler) throw Object.assign(new Error(`no handler ${task.handler}`), { fatal: true });
    console.log(JSON.stringify({ begun: task.id }));
    outcome.result = await handler(task, stop.signal);
    outcome.outcome = "completed";
  } catch (error) {
    const stopped = stop.signal.aborted;
    outcome.outcome = stopped ? (stop.signal.reason === "leaving" ? "interrupted" : "cancelled") : "failed";
    if (!stopped) outcome.error = { type: error.name, message: error.message, traceback: error.stack ?? "" };
    outcome.fatal = Boolean(error?.fatal);
  }
  outcome.ended_ms = Date.now();
  while (mine === session) { // repeated until it was answered
    const answer = await tell("outcomes", { outcomes: [outcome] });
    if (!answer.error || answer.error.retry_after_ms === -1) break;
    await new Promise((resolve) => setTimeout(resolve, answer.error.retry_after_ms ?? 100));
  }
  if (mine !== session) return; // the session ended, and with it this attempt
  running.delete(task.id);
  done += 1;
  await offer();
}

await begin();
console.log(JSON.stringify({ session }));
for await (const _ of process.stdin);
leaving = true;
await offer();
for (const each of running.values()) each.stop.abort("leaving");
while (running.size) await new Promise((resolve) => setTimeout(resolve, 5));
await tell("leave", {});
clearInterval(beating);
await nc.close();
