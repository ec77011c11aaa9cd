// The gRPC service and the clients' scenarios of the peer tests in @grpc/grpc-js.
// grpc_service.py says what the methods do, grpc_client.py what each scenario is.
'use strict';

const grpc = require('@grpc/grpc-js');

const SERVICE = 'peers.Echo';
const LIMITS = {
  'grpc.max_receive_message_length': 64 << 20,
  'grpc.max_send_message_length': 64 << 20,
};
const PATIENCE = 30000;
const same = (value) => value;

function method(name, requestStream, responseStream) {
  return {
    path: `/${SERVICE}/${name}`, requestStream, responseStream,
    requestSerialize: same, requestDeserialize: same,
    responseSerialize: same, responseDeserialize: same,
  };
}

const METHODS = {
  Unary: method('Unary', false, false),
  Count: method('Count', false, true),
  Sum: method('Sum', true, false),
  Chat: method('Chat', true, true),
  Fail: method('Fail', false, true),
  Wait: method('Wait', false, false),
  Seen: method('Seen', false, false),
};

// The server

async function count(call) {
  const [messages, size] = call.request.toString().split(' ').map(Number);
  call.setMaxListeners(0);
  for (let i = 0; i < messages && !call.cancelled; i++) {
    if (!call.write(Buffer.alloc(size, i % 256))) {
      await new Promise((resolve) => {
        call.once('drain', resolve);
        call.once('cancelled', resolve);
      });
    }
  }
  call.end();
}

function handlers(noted) {
  return {
    Unary(call, done) {
      const asked = call.metadata;
      const initial = new grpc.Metadata();
      initial.set('x-said', asked.get('x-ask')[0] || '');
      call.sendMetadata(initial);
      const trailers = new grpc.Metadata();
      trailers.set('x-last', 'trailer');
      trailers.set('x-last-bin', asked.get('x-ask-bin')[0] || Buffer.alloc(0));
      done(null, call.request, trailers);
    },
    Count: count,
    Sum(call, done) {
      let messages = 0;
      let bytes = 0;
      call.on('data', (data) => { messages += 1; bytes += data.length; });
      call.on('end', () => done(null, Buffer.from(`${messages} ${bytes}`)));
    },
    Chat(call) {
      call.on('data', (data) => call.write(data));
      call.on('end', () => call.end());
    },
    Fail(call) {
      const plan = JSON.parse(call.request.toString());
      for (let i = 0; i < plan.after; i++) call.write(Buffer.from(String(i)));
      const metadata = new grpc.Metadata();
      metadata.set('x-why', 'as planned');
      call.emit('error', { code: plan.code, details: plan.details, metadata });
    },
    Wait(call) {
      const mark = call.request.toString();
      noted.set(mark, 'started');
      call.on('cancelled', () => noted.set(mark, 'cancelled'));
    },
    Seen(call, done) {
      done(null, Buffer.from(noted.get(call.request.toString()) || ''));
    },
  };
}

function grpc_serve() {
  const server = new grpc.Server(LIMITS);
  server.addService(METHODS, handlers(new Map()));
  return new Promise((resolve, reject) => {
    const insecure = grpc.ServerCredentials.createInsecure();
    server.bindAsync('127.0.0.1:0', insecure, (error, port) => {
      if (error) reject(error); else resolve({ port });
    });
  });
}

// The client

const Client = grpc.makeGenericClientConstructor(METHODS, SERVICE);

function open(target, extra = {}) {
  const options = {
    ...LIMITS, ...extra, 'grpc.use_local_subchannel_pool': 1, 'grpc.enable_http_proxy': 0,
  };
  if (target.authority) options['grpc.default_authority'] = target.authority;
  let credentials = grpc.credentials.createInsecure();
  if (target.roots) {
    options['grpc.ssl_target_name_override'] = target.authority;
    credentials = grpc.credentials.createSsl(Buffer.from(target.roots));
  }
  return new Client(target.address, credentials, options);
}

const patience = (ms = PATIENCE) => ({ deadline: Date.now() + ms });

function pairs(metadata) {
  const found = {};
  for (const [key, value] of Object.entries(metadata.getMap())) {
    found[key] = Buffer.isBuffer(value) ? value.toString('hex') : value;
  }
  return found;
}

// {answer, error, initial, trailers} of a call with one response.
function unaryCall(client, name, request, metadata, options = patience()) {
  return new Promise((resolve) => {
    const outcome = { initial: null, trailers: null };
    const settle = () => { if ('answer' in outcome && outcome.trailers) resolve(outcome); };
    const call = client[name](request, metadata || new grpc.Metadata(), options, (error, answer) => {
      Object.assign(outcome, { error, answer });
      settle();
    });
    call.on('metadata', (found) => { outcome.initial = found; });
    call.on('status', (status) => { outcome.trailers = status.metadata; settle(); });
  });
}

function good(outcome) {
  if (outcome.error) throw outcome.error;
  return outcome.answer;
}

// {messages, status} of a stream of responses.
function collect(call) {
  return new Promise((resolve) => {
    const messages = [];
    call.on('data', (data) => messages.push(data));
    call.on('error', () => {});
    call.on('status', (status) => resolve({ messages, status }));
  });
}

function body(size) {
  const filled = Buffer.alloc(size);
  for (let i = 0; i < size; i++) filled[i] = i % 256;
  return filled;
}

const scenarios = {
  async unary(client, { size }) {
    const asked = new grpc.Metadata();
    asked.set('x-ask', 'a value; with, signs');
    asked.set('x-ask-bin', Buffer.from(Array.from({ length: 32 }, (_, i) => i)));
    const sent = body(size);
    const outcome = await unaryCall(client, 'Unary', sent, asked);
    return {
      same: good(outcome).equals(sent),
      said: pairs(outcome.initial)['x-said'],
      trailers: pairs(outcome.trailers),
    };
  },

  async server_stream(client, { messages, size }) {
    const request = Buffer.from(`${messages} ${size}`);
    const got = await collect(client.Count(request, new grpc.Metadata(), patience()));
    const right = got.messages.every((data, i) => data.equals(Buffer.alloc(size, i % 256)));
    return { messages: got.messages.length, good: right };
  },

  client_stream(client, { messages, size }) {
    return new Promise((resolve, reject) => {
      const call = client.Sum(new grpc.Metadata(), patience(), (error, answer) => {
        if (error) reject(error); else resolve({ answer: answer.toString() });
      });
      for (let i = 0; i < messages; i++) call.write(Buffer.alloc(size, 'm'));
      call.end();
    });
  },

  ping_pong(client, { rounds }) {
    return new Promise((resolve, reject) => {
      const call = client.Chat(new grpc.Metadata(), patience());
      let right = 0;
      call.on('error', reject);
      call.on('data', (data) => {
        if (data.toString() === `ping ${right}`) right += 1;
        if (right < rounds) call.write(Buffer.from(`ping ${right}`)); else call.end();
      });
      call.on('end', () => resolve({ good: right }));
      call.write(Buffer.from('ping 0'));
    });
  },

  async interleaved(client, { streams, messages }) {
    const said = Array.from({ length: streams }, (_, s) => (
      Array.from({ length: messages }, (__, i) => `${s} ${i}`.repeat(50))));
    const heard = await Promise.all(said.map((one) => {
      const call = client.Chat(new grpc.Metadata(), patience());
      one.forEach((message) => call.write(Buffer.from(message)));
      call.end();
      return collect(call);
    }));
    const right = heard.filter((one, s) => (
      one.messages.map(String).join('\n') === said[s].join('\n') && one.status.code === 0));
    return { good: right.length };
  },

  async fail(client, { after, code, details }) {
    const plan = Buffer.from(JSON.stringify({ after, code, details }));
    const got = await collect(client.Fail(plan, new grpc.Metadata(), patience()));
    return {
      messages: got.messages.length,
      code: got.status.code,
      details: got.status.details,
      why: pairs(got.status.metadata)['x-why'] ?? null,
    };
  },

  async deadline(client, { mark, seconds }) {
    const limit = patience(seconds * 1000);
    const outcome = await unaryCall(client, 'Wait', Buffer.from(mark), null, limit);
    return { code: outcome.error ? outcome.error.code : 0 };
  },

  async seen(client, { mark }) {
    return { seen: good(await unaryCall(client, 'Seen', Buffer.from(mark))).toString() };
  },

  async cancel(client, { mark }) {
    let ended;
    const code = new Promise((resolve) => { ended = resolve; });
    const call = client.Wait(Buffer.from(mark), new grpc.Metadata(), patience(), (error) => {
      ended(error ? error.code : 0);
    });
    while ((await scenarios.seen(client, { mark })).seen !== 'started');
    call.cancel();
    return { code: await code };
  },

  async leave(client, { size }) {
    const call = client.Count(Buffer.from(`1000 ${size}`), new grpc.Metadata(), patience());
    call.on('error', () => {});
    const first = await new Promise((resolve) => { call.once('data', resolve); });
    call.cancel();
    const after = good(await unaryCall(client, 'Unary', Buffer.from('next')));
    return { got: first.length, next: after.toString() };
  },

  async keepalive(client, { seconds }) {
    const call = client.Chat(new grpc.Metadata(), patience());
    const failed = new Promise((_, reject) => { call.on('error', reject); });
    const next = () => Promise.race([new Promise((r) => { call.once('data', r); }), failed]);
    call.write(Buffer.from('before'));
    const before = await next();
    // Time without traffic is what is tested here: nothing can be awaited instead.
    await new Promise((resolve) => { setTimeout(resolve, seconds * 1000); });
    call.write(Buffer.from('after'));
    const after = await next();
    call.end();
    return { before: before.toString(), after: after.toString() };
  },
};

async function many(target, { channels }) {
  const clients = Array.from({ length: channels }, () => open(target));
  const outcomes = await Promise.all(clients.map(async (client, i) => {
    for (let n = 0; n < 3; n++) {
      const answer = good(await unaryCall(client, 'Unary', Buffer.from(String(i))));
      if (answer.toString() !== String(i)) return false;
    }
    return true;
  }));
  clients.forEach((client) => client.close());
  return { good: outcomes.filter(Boolean).length };
}

const KEEPALIVE = {
  'grpc.keepalive_time_ms': 200,
  'grpc.keepalive_timeout_ms': 1000,
  'grpc.keepalive_permit_without_calls': 0,
};

async function grpc_call({ scenario, target, args }) {
  if (scenario === 'many') return many(target, args);
  const client = open(target, scenario === 'keepalive' ? KEEPALIVE : {});
  try {
    return await scenarios[scenario](client, args);
  } finally {
    client.close();
  }
}

module.exports = { grpc_serve, grpc_call };
