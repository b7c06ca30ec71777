// One transfer by one of Node's APIs: node node.mjs ROLE API URL FILE FRAMING
// Exits with 0 if the API reports success. The CA is in NODE_EXTRA_CA_CERTS.

import { createReadStream, createWriteStream, readFileSync, statSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { once } from "node:events";

const [role, api, url, file, framing] = process.argv.slice(2);
const { get, request } = url.startsWith("https:") ? https : http;
const length = () => statSync(file).size;

const receive = {
  async fetch() {
    // snippet: fetch
    const response = await fetch(url);
    if (!response.ok) throw new Error(`status ${response.status}`);
    await pipeline(response.body, createWriteStream(file)); // rejects at a cut
    // snippet end
  },

  async "http.get().pipe()"() {
    // snippet: http.get().pipe()
    get(url, (response) => response.pipe(createWriteStream(file)));
    // snippet end
  },

  async "http.get, pipeline()"() {
    // snippet: http.get, pipeline()
    const [response] = await once(get(url), "response");
    if (response.statusCode !== 200) {
      response.destroy(); // or the program waits for the kept connection
      throw new Error(`status ${response.statusCode}`);
    }
    await pipeline(response, createWriteStream(file)); // rejects at a cut
    // snippet end
  },

  async http2() {
    const session = http2.connect(new URL(url).origin);
    session.on("error", () => {}); // each of its streams fails too
    try {
      const stream = session.request({ ":path": new URL(url).pathname });
      const [headers] = await once(stream, "response");
      if (headers[":status"] !== 200) throw new Error(`status ${headers[":status"]}`);
      await pipeline(stream, createWriteStream(file));
    } finally {
      session.close();
    }
  },
};

const send = {
  async fetch() {
    const body = framing === "length" ? readFileSync(file) : Readable.toWeb(createReadStream(file));
    const response = await fetch(url, { method: "PUT", body, duplex: "half" });
    if (!response.ok) throw new Error(`status ${response.status}`);
  },

  async "http.request().pipe()"() {
    const headers = framing === "length" ? { "Content-Length": length() } : {};
    const upload = createReadStream(file).pipe(request(url, { method: "PUT", headers }));
    const [response] = await once(upload, "response");
    response.resume();
    if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
  },

  async http2() {
    const session = http2.connect(new URL(url).origin);
    session.on("error", () => {});
    try {
      const headers = framing === "length" ? { "content-length": length() } : {};
      const stream = session.request({ ":method": "PUT", ":path": new URL(url).pathname, ...headers });
      createReadStream(file).pipe(stream);
      const [answer] = await once(stream, "response");
      stream.resume();
      if (answer[":status"] !== 200) throw new Error(`status ${answer[":status"]}`);
    } finally {
      session.close();
    }
  },
};

try {
  await { receive, send }[role][api]();
} catch (error) {
  const cause = error.cause ? ` (${error.cause.code ?? error.cause.message})` : "";
  console.error(`${error.name}: ${error.code ?? error.message}${cause}`);
  process.exitCode = 1;
}
