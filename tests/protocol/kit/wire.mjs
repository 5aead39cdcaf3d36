// The two formats of the protocol, and one request.
import { decode, encode } from "@msgpack/msgpack";

const text = new TextDecoder();
const bytes = new TextEncoder();

export const formats = {
  msgpack: { pack: (value) => encode(value), unpack: (data) => decode(data) },
  json: { pack: (value) => bytes.encode(JSON.stringify(value)), unpack: (data) => JSON.parse(text.decode(data)) },
};

// Ask for something and return the answer, which may be { error }.
export async function ask(nc, form, subject, fields, timeout = 10_000) {
  const answer = await nc.request(subject, form.pack(fields), { timeout });
  return form.unpack(answer.data);
}
