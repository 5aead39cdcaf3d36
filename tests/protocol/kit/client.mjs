// A client: reads lines { op, fields } and writes the answers as lines, all in JSON; what goes over NATS is in the format asked for.
//   node client.mjs URL TENANT FORMAT [VECTORS]     with VECTORS: only compares what msgpack says with the JSON next to it
import { connect } from "@nats-io/transport-node";
import { decode } from "@msgpack/msgpack";
import { isDeepStrictEqual } from "node:util";
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { ask, formats } from "./wire.mjs";

const [url, tenant, format, vectors] = process.argv.slice(2);

if (vectors) {
  const all = JSON.parse(readFileSync(vectors, "utf8"));
  const wrong = all.filter((each) => !isDeepStrictEqual(decode(Buffer.from(each.msgpack, "hex")), each.json));
  console.log(JSON.stringify({ read: all.length, wrong: wrong.map((each) => each.type) }));
  process.exit(0);
}

const nc = await connect({ servers: url });
for await (const line of createInterface({ input: process.stdin })) {
  const { op, fields } = JSON.parse(line);
  console.log(JSON.stringify(await ask(nc, formats[format], `foliot.v1.${tenant}.${op}`, fields, 70_000)));
}
await nc.close();
