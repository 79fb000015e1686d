// @grpc/grpc-js against the echo service: a line of JSON for each check, in the order of `checks`.
//
// usage: node client.js FOLDER_OF_NODE_MODULES HOST:PORT [MODEL]
//
// With MODEL it goes through a router, which is told by metadata which model a call is for, and what only the server
// itself answers (health, reflection) is left out. Messages are google.protobuf.BytesValue, written by hand: the client
// needs no generated code and no loader.
"use strict";
const [modules, target, model] = process.argv.slice(2);
const grpc = require(require.resolve("@grpc/grpc-js", { paths: [modules] }));
const { once } = require("node:events");
const assert = require("node:assert/strict");

const channelOptions = { "grpc.max_receive_message_length": 16 << 20, "grpc.enable_retries": 0 };
const client = new grpc.Client(target, grpc.credentials.createInsecure(), channelOptions);
const LARGE_BYTES = 2 << 20;
const same = (buffer) => buffer;

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value & 127) | 128);
  return Buffer.from([...bytes, value]);
}

function field(number, payload) {
  const bytes = Buffer.from(payload);
  return Buffer.concat([Buffer.from([(number << 3) | 2]), varint(bytes.length), bytes]);
}

const wrap = (bytes) => (bytes.length ? field(1, bytes) : Buffer.alloc(0));

function unwrap(message) {
  if (!message.length) return message;
  let [at, size, shift] = [1, 0, 0];
  for (; message[at] & 128; at += 1, shift += 7) size |= (message[at] & 127) << shift;
  size |= message[at] << shift;
  return message.subarray(at + 1, at + 1 + size);
}

const path = (method) => `/infermesh.testing.Echo/${method}`;

function metadata(pairs = []) {
  const made = new grpc.Metadata();
  if (model) made.set("x-infermesh-model", model);
  for (const [name, value] of pairs) made.add(name, value);
  return made;
}

function unary(method, bytes, { pairs, options = {} } = {}) {
  return new Promise((resolve) => {
    const seen = {};
    const call = client.makeUnaryRequest(
      method, same, same, bytes, metadata(pairs), options,
      (error, value) => { seen.error = error; seen.value = value; },
    );
    call.on("metadata", (leading) => { seen.leading = leading; });
    call.on("status", (status) => setImmediate(() => resolve({ ...seen, status })));
    seen.call = call;
    if (options.begun) options.begun(call);
  });
}

// An error event comes with every status but OK; the status says the same and more.
function statusOf(call) {
  call.on("error", () => {});
  return new Promise((resolve) => call.on("status", resolve));
}

async function collect(call) {
  const messages = [];
  call.on("data", (message) => messages.push(unwrap(message).toString()));
  return { messages, status: await statusOf(call) };
}

const say = (text, how) => unary(path("Say"), wrap(Buffer.from(text)), how);

const checks = {
  async unary() {
    const { value, leading, status } = await say("hello");
    assert.equal(unwrap(value).toString(), "hello");
    assert.equal(status.code, grpc.status.OK);
    assert.deepEqual(leading.get("x-path"), [path("Say")]);
    assert.deepEqual(status.metadata.get("x-trailing"), ["yes"]);
  },
  async binary_metadata_comes_back_in_head_and_trailers() {
    const values = [Buffer.from([0, 255, 128, 44]), Buffer.from("second")];
    const pairs = [...values.map((value) => ["x-key-bin", value]), ["x-text", "plain"]];
    const { leading, status } = await say("m", { pairs });
    for (const found of [leading, status.metadata]) {
      assert.deepEqual(found.get("x-key-bin").map((value) => Buffer.from(value)), values);
      assert.deepEqual(found.get("x-text"), ["plain"]);
    }
  },
  async empty_and_large_messages() {
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(LARGE_BYTES, 7)]) {
      const { value, status } = await unary(path("Say"), wrap(bytes));
      assert.equal(status.code, grpc.status.OK, status.details);
      assert.ok(unwrap(value).equals(bytes));
    }
  },
  async gzip_both_ways() {
    const compressing = new grpc.Client(target, grpc.credentials.createInsecure(), {
      ...channelOptions, "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip,
    });
    const bytes = wrap(Buffer.from("squeeze ".repeat(4096)));
    const value = await new Promise((resolve, reject) => compressing.makeUnaryRequest(
      path("Squeeze"), same, same, bytes, metadata(), (error, answer) => (error ? reject(error) : resolve(answer)),
    ));
    compressing.close();
    assert.ok(value.equals(bytes));
  },
  async status_message_and_details() {
    const { error, status } = await unary(path("Fail"), wrap(Buffer.from([grpc.status.FAILED_PRECONDITION])));
    assert.equal(error.code, grpc.status.FAILED_PRECONDITION);
    assert.equal(status.details, "as told: 100 % früh");
    assert.deepEqual(status.metadata.get("x-why"), ["told to"]);
    assert.ok(status.metadata.get("grpc-status-details-bin")[0].includes("a detail"));
  },
  async unknown_method_is_unimplemented() {
    const { error } = await unary(path("Nothing"), wrap(Buffer.from("x")));
    assert.equal(error.code, grpc.status.UNIMPLEMENTED, error.details);
  },
  async deadline() {
    const began = Date.now();
    const { error } = await unary(path("Wait"), wrap(Buffer.from("x")), { options: { deadline: Date.now() + 300 } });
    assert.equal(error.code, grpc.status.DEADLINE_EXCEEDED);
    assert.ok(Date.now() - began < 2000);
  },
  async cancelled_unary() {
    const begun = (call) => setTimeout(() => call.cancel(), 200);
    const { error } = await unary(path("Wait"), wrap(Buffer.from("x")), { options: { begun } });
    assert.equal(error.code, grpc.status.CANCELLED);
  },
  async server_stream() {
    const call = client.makeServerStreamRequest(path("Count"), same, same, wrap(Buffer.from("1000")), metadata());
    const { messages, status } = await collect(call);
    assert.equal(status.code, grpc.status.OK);
    assert.deepEqual(messages, Array.from({ length: 1000 }, (_, number) => String(number)));
  },
  async cancelled_server_stream() {
    const call = client.makeServerStreamRequest(path("Pour"), same, same, wrap(Buffer.from("x")), metadata());
    let count = 0;
    call.on("data", () => { if (++count === 50) call.cancel(); });
    assert.equal((await statusOf(call)).code, grpc.status.CANCELLED);
  },
  async client_stream() {
    const parts = Array.from({ length: 200 }, (_, number) => `part ${number};`);
    const value = await new Promise((resolve, reject) => {
      const call = client.makeClientStreamRequest(
        path("Join"), same, same, metadata(), (error, answer) => (error ? reject(error) : resolve(answer)),
      );
      for (const part of parts) call.write(wrap(Buffer.from(part)));
      call.end();
    });
    assert.equal(unwrap(value).toString(), parts.join(""));
  },
  async bidirectional_stream_takes_turns() {
    const call = client.makeBidiStreamRequest(path("Chat"), same, same, metadata());
    const ended = statusOf(call);
    for (let turn = 0; turn < 50; turn += 1) {
      const answer = once(call, "data");
      call.write(wrap(Buffer.from(`turn ${turn}`)));
      assert.equal(unwrap((await answer)[0]).toString(), `turn ${turn}`);
    }
    call.end();
    call.resume();
    assert.equal((await ended).code, grpc.status.OK);
  },
  async five_hundred_at_once() {
    const answers = await Promise.all(Array.from({ length: 500 }, (_, number) => say(`call ${number}`)));
    answers.forEach(({ value }, number) => assert.equal(unwrap(value).toString(), `call ${number}`));
  },
};

const serverChecks = {
  async health() {
    const check = (service) => unary("/grpc.health.v1.Health/Check", service ? field(1, service) : Buffer.alloc(0));
    assert.deepEqual([...(await check("")).value], [8, 1]);
    assert.equal((await check("nobody")).error.code, grpc.status.NOT_FOUND);
  },
  async reflection() {
    for (const version of ["v1", "v1alpha"]) {
      const method = `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`;
      const call = client.makeBidiStreamRequest(method, same, same, metadata());
      const ended = statusOf(call);
      const answer = once(call, "data");
      call.write(field(7, "*"));
      assert.ok((await answer)[0].includes("infermesh.testing.Echo"), version);
      call.end();
      call.resume();
      assert.equal((await ended).code, grpc.status.OK);
    }
  },
};

async function main() {
  let failed = 0;
  for (const [name, check] of Object.entries(model ? checks : { ...checks, ...serverChecks })) {
    const line = { check: name, ok: true };
    try {
      await check();
    } catch (error) {
      failed += 1;
      Object.assign(line, { ok: false, error: String(error.stack || error).slice(0, 600) });
    }
    console.log(JSON.stringify(line));
  }
  client.close();
  process.exitCode = failed ? 1 : 0;
}

main();
