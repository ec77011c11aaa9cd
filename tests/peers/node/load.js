// Long bodies and many short requests: the soak's applications and its callers.
// Every short request is {good}, {aborted} on purpose, or a failure with its reason.
'use strict';

const http = require('node:http');
const http2 = require('node:http2');
const net = require('node:net');
const grpc = require('@grpc/grpc-js');
const { WebSocket, WebSocketServer } = require('ws');

const CHUNK = Buffer.alloc(256 << 10, 'z');
const SMALL = Buffer.alloc(1000, 's');
const same = (value) => value;
const listening = (server) => new Promise((resolve) => {
  server.listen(0, '127.0.0.1', () => resolve(server.address().port));
});

// The applications

async function stream(response, size) {
  for (let left = size; left > 0; left -= CHUNK.length) {
    const piece = left < CHUNK.length ? CHUNK.subarray(0, left) : CHUNK;
    if (!response.write(piece)) await new Promise((resolve) => { response.once('drain', resolve); });
  }
  response.end();
}

function handle(request, response) {
  const [, name, argument] = request.url.split('/');
  if (name === 'stream') {
    stream(response, Number(argument));
    return;
  }
  let length = 0;
  request.on('data', (data) => { length += data.length; });
  request.on('end', () => response.end(name === 'count' ? String(length) : SMALL));
  request.on('error', () => {});
}

function websocket_application(server) {
  new WebSocketServer({ server, maxPayload: 1 << 30, perMessageDeflate: false })
    .on('connection', (socket, request) => {
      let length = 0;
      socket.on('error', () => {});
      if (request.url.startsWith('/stream/')) pour(socket, Number(request.url.split('/')[2]));
      socket.on('message', (data, binary) => {
        if (request.url === '/echo') socket.send(data, { binary });
        else if (binary) length += data.length;
        else socket.send(String(length));
      });
    });
}

// Messages of 256 KiB, no more than a few of them waiting.
async function pour(socket, size) {
  for (let left = size; left > 0; left -= CHUNK.length) {
    const piece = left < CHUNK.length ? CHUNK.subarray(0, left) : CHUNK;
    await new Promise((resolve, reject) => {
      socket.send(piece, (error) => (error ? reject(error) : resolve()));
    });
  }
}

const GRPC = {
  Call: {
    path: '/soak.Soak/Call', requestStream: false, responseStream: false,
    requestSerialize: same, requestDeserialize: same,
    responseSerialize: same, responseDeserialize: same,
  },
};

async function load_serve() {
  const one = http.createServer(handle);
  websocket_application(one);
  const two = http2.createServer({ settings: { maxConcurrentStreams: 1000 } }, handle);
  const tcp = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  });
  const service = new grpc.Server();
  service.addService(GRPC, { Call: (call, done) => done(null, call.request) });
  const rpc = await new Promise((resolve, reject) => {
    service.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => (
      error ? reject(error) : resolve(port)));
  });
  return { http: await listening(one), http2: await listening(two), tcp: await listening(tcp), grpc: rpc };
}

// Long bodies over WebSocket

function websocket_upload({ port, size }) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/count`, { perMessageDeflate: false });
    socket.on('error', reject);
    socket.on('message', (text) => { socket.close(); resolve({ length: Number(text) }); });
    socket.on('open', async () => {
      await pour(socket, size);
      socket.send('how much?');
    });
  });
}

function websocket_download({ port, size }) {
  return new Promise((resolve, reject) => {
    const url = `ws://127.0.0.1:${port}/stream/${size}`;
    const socket = new WebSocket(url, { perMessageDeflate: false, maxPayload: 1 << 30 });
    let length = 0;
    socket.on('error', reject);
    socket.on('message', (data) => {
      length += data.length;
      if (length >= size) { socket.close(); resolve({ length }); }
    });
  });
}

// Short requests: each resolves to 'good' or 'aborted', or rejects.

class Http1 {
  constructor(port) {
    this.port = port;
    this.agent = new http.Agent({ keepAlive: true, maxSockets: 50 });
  }

  call(abort) {
    return new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port: this.port, path: '/', agent: this.agent };
      const request = http.request({ ...options, method: abort ? 'POST' : 'GET' }, (response) => {
        let length = 0;
        response.on('data', (data) => { length += data.length; });
        response.on('end', () => (
          response.statusCode === 200 && length === SMALL.length
            ? resolve('good') : reject(new Error(`HTTP/1.1 ${response.statusCode} ${length}`))));
      });
      request.on('error', (error) => (abort ? resolve('aborted') : reject(error)));
      if (abort) {
        request.write('half of a body');
        setImmediate(() => request.destroy(new Error('on purpose')));
      } else request.end();
    });
  }

  close() { this.agent.destroy(); }
}

// A session's resets stay under what the mesh allows a peer (1,000 at once).
const REQUESTS_A_SESSION = 2000;

class Http2 {
  constructor(port) {
    this.port = port;
    this.left = 0;
  }

  session() {
    if (this.left === 0 || this.current.closed || this.current.destroyed) {
      if (this.current) this.retire(this.current);
      this.current = http2.connect(`http://127.0.0.1:${this.port}`);
      this.current.on('error', () => {});
      this.current.running = 0;
      this.left = REQUESTS_A_SESSION;
    }
    this.left -= 1;
    return this.current;
  }

  // Closed with its last stream: close() refuses streams that have not begun.
  retire(session) {
    session.retired = true;
    if (session.running === 0) session.close();
  }

  call(abort) {
    return new Promise((resolve, reject) => {
      const method = abort ? 'POST' : 'GET';
      const session = this.session();
      const call = session.request({ ':path': '/', ':method': method });
      session.running += 1;
      let status = 0;
      let length = 0;
      call.on('response', (headers) => { status = headers[':status']; });
      call.on('data', (data) => { length += data.length; });
      call.on('error', (error) => (abort ? resolve('aborted') : reject(error)));
      call.on('close', () => {
        session.running -= 1;
        if (session.retired && session.running === 0) session.close();
        if (abort) resolve('aborted');
        else if (status === 200 && length === SMALL.length) resolve('good');
        else reject(new Error(`HTTP/2 ${status} ${length} ${call.rstCode}`));
      });
      if (abort) {
        call.write('half of a body');
        setImmediate(() => call.close(http2.constants.NGHTTP2_CANCEL));
      } else call.end();
    });
  }

  close() { if (this.current) this.retire(this.current); }
}

class Grpc {
  constructor(port) {
    const Client = grpc.makeGenericClientConstructor(GRPC, 'soak.Soak');
    this.make = () => new Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1, 'grpc.enable_http_proxy': 0,
    });
    this.left = 0;
  }

  client() {
    if (this.left === 0) {
      if (this.current) this.retire(this.current);
      this.current = this.make();
      this.current.running = 0;
      this.left = REQUESTS_A_SESSION;
    }
    this.left -= 1;
    return this.current;
  }

  retire(client) {
    client.retired = true;
    if (client.running === 0) client.close();
  }

  call(abort) {
    const client = this.client();
    client.running += 1;
    return new Promise((resolve, reject) => {
      const call = client.Call(SMALL, new grpc.Metadata(), (error, answer) => {
        client.running -= 1;
        if (client.retired && client.running === 0) client.close();
        if (abort) resolve('aborted');
        else if (error || answer.length !== SMALL.length) reject(error || new Error('short'));
        else resolve('good');
      });
      if (abort) setImmediate(() => call.cancel());
    });
  }

  close() { if (this.current) this.retire(this.current); }
}

class Tcp {
  constructor(port) { this.port = port; }

  call(abort) {
    return new Promise((resolve, reject) => {
      const socket = net.connect(this.port, '127.0.0.1');
      let length = 0;
      socket.on('data', (data) => { length += data.length; });
      socket.on('error', (error) => (abort ? resolve('aborted') : reject(error)));
      socket.on('close', () => {
        if (abort) resolve('aborted');
        else if (length === SMALL.length) resolve('good');
        else reject(new Error(`TCP ${length}`));
      });
      socket.on('connect', () => {
        socket.write(SMALL);
        if (abort) setImmediate(() => socket.resetAndDestroy()); else socket.end();
      });
    });
  }

  close() {}
}

class Websocket {
  constructor(port) { this.url = `ws://127.0.0.1:${port}/echo`; }

  call(abort) {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(this.url, { perMessageDeflate: false });
      let length = 0;
      socket.on('error', (error) => (abort ? resolve('aborted') : reject(error)));
      socket.on('message', (data) => { length += data.length; socket.close(); });
      socket.on('close', () => {
        if (abort) resolve('aborted');
        else if (length === SMALL.length) resolve('good');
        else reject(new Error(`WebSocket ${length}`));
      });
      socket.on('open', () => {
        socket.send(SMALL);
        if (abort) setImmediate(() => socket.terminate());
      });
    });
  }

  close() {}
}

const CALLERS = { http: Http1, http2: Http2, grpc: Grpc, tcp: Tcp, websocket: Websocket };
// Of a hundred requests; connections cost more than requests do.
const SHARES = { http: 35, http2: 35, grpc: 20, tcp: 5, websocket: 5 };
const FULL_MIX = Object.entries(SHARES).flatMap(([name, share]) => Array(share).fill(name));
const EVERY = 10; // one in ten is aborted

// {protocol: {good, aborted, failed, reason}} of `requests` requests, `at_once` of them at a
// time, to the protocols that have a port.
async function load_run({ ports, requests, at_once, timeout = 60 }) {
  const callers = {};
  const counts = {};
  const MIX = FULL_MIX.filter((name) => name in ports);
  for (const name of Object.keys(ports)) {
    callers[name] = new CALLERS[name](ports[name]);
    counts[name] = { good: 0, aborted: 0, failed: 0, reason: '' };
  }
  let started = 0;
  async function one() {
    while (started < requests) {
      const i = started++;
      const name = MIX[(i * 37) % MIX.length];
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no end within ${timeout} s`)), timeout * 1000);
      });
      try {
        const abort = Math.floor(i / MIX.length) % EVERY === i % EVERY;
        counts[name][await Promise.race([callers[name].call(abort), late])] += 1;
      } catch (error) {
        counts[name].failed += 1;
        counts[name].reason = String(error);
      } finally {
        clearTimeout(timer);
      }
    }
  }
  await Promise.all(Array.from({ length: at_once }, one));
  Object.values(callers).forEach((caller) => caller.close());
  return counts;
}

module.exports = { load_serve, load_run, websocket_upload, websocket_download };
