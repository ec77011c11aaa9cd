// The WebSocket server and client of the peer tests in ws.
// websocket_peer.py says what the paths do, and what each scenario is.
'use strict';

const { WebSocket, WebSocketServer } = require('ws');

const BIGGEST = 17 << 20;
const SUBPROTOCOL = 'chat.v2';

// The server

function send_in_fragments(socket, data, binary) {
  for (let i = 0; i < data.length; i += 1000) {
    const fin = i + 1000 >= data.length;
    socket.send(data.subarray(i, i + 1000), { binary, fin, compress: false });
  }
}

const handlers = {
  '/echo': (socket, data, binary) => socket.send(data, { binary }),
  '/fragments': send_in_fragments,
  '/close': (socket, data) => {
    const [code, ...reason] = data.toString().split(' ');
    socket.close(Number(code), reason.join(' '));
  },
  '/ping': (socket) => {
    socket.once('pong', () => socket.send('pong'));
    socket.ping('from the server');
  },
};

function websocket_serve() {
  let ended = '';
  const server = new WebSocketServer({
    host: '127.0.0.1', port: 0, maxPayload: BIGGEST,
    perMessageDeflate: true, handleProtocols: () => SUBPROTOCOL,
  });
  server.on('connection', (socket, request) => {
    if (request.url === '/ended') {
      socket.send(ended);
      socket.close();
      return;
    }
    const handle = handlers[request.url];
    socket.on('message', (data, binary) => handle(socket, data, binary));
    socket.on('error', () => {});
    socket.on('close', (code, reason) => { ended = `${code} ${reason}`.trim(); });
  });
  return new Promise((resolve) => {
    server.on('listening', () => resolve({ port: server.address().port }));
  });
}

// The client

// An open socket whose messages wait in a queue: [socket, next].
function open(target, path, compress = true) {
  const scheme = target.roots ? 'wss' : 'ws';
  const socket = new WebSocket(`${scheme}://${target.host}:${target.port}${path}`, SUBPROTOCOL, {
    perMessageDeflate: compress,
    maxPayload: BIGGEST,
    ca: target.roots || undefined,
    lookup: (name, options, found) => (
      options.all ? found(null, [{ address: '127.0.0.1', family: 4 }]) : found(null, '127.0.0.1', 4)),
  });
  const messages = [];
  const waiting = [];
  socket.on('message', (data, binary) => {
    const message = binary ? data : data.toString();
    if (waiting.length) waiting.shift()(message); else messages.push(message);
  });
  const next = () => (
    messages.length ? Promise.resolve(messages.shift()) : new Promise((r) => { waiting.push(r); }));
  return new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.on('open', () => resolve([socket, next]));
  });
}

const closed = (socket) => new Promise((resolve) => {
  socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
});

async function end(socket) {
  const ended = closed(socket);
  socket.close();
  await ended;
}

const alike = (one, other) => (
  Buffer.isBuffer(one) === Buffer.isBuffer(other) && Buffer.from(one).equals(Buffer.from(other)));

const scenarios = {
  async echoes(target, { compress }) {
    const messages = [
      '', 'text', 'ü€𝄞', Buffer.alloc(0), Buffer.from(Array.from({ length: 256 }, (_, i) => i)),
      'x'.repeat(125), Buffer.alloc(126, 'y'), 'z'.repeat(65536)];
    const [socket, next] = await open(target, '/echo', compress);
    messages.forEach((message) => socket.send(message));
    let same = 0;
    for (const message of messages) same += alike(await next(), message);
    const extensions = socket.extensions ? [socket.extensions.split(';')[0]] : [];
    const found = { same, extensions, subprotocol: socket.protocol };
    await end(socket);
    return found;
  },

  async big(target, { size }) {
    const message = Buffer.alloc(size);
    for (let i = 0; i < size; i++) message[i] = i % 251;
    const [socket, next] = await open(target, '/echo', false);
    socket.send(message);
    const same = (await next()).equals(message);
    await end(socket);
    return { same };
  },

  async fragmented(target) {
    const parts = Array.from({ length: 100 }, (_, i) => Buffer.from(String(i).padStart(5, '0').repeat(20)));
    const [socket, next] = await open(target, '/fragments', false);
    let frames = 0;
    const receiver = socket._receiver;
    const take = receiver.getData;
    receiver.getData = function counted(...args) { // one call a data or control frame
      if (this._opcode < 8) frames += 1;
      return take.apply(this, args);
    };
    parts.forEach((part, i) => {
      if (i === 50) socket.ping('between two frames');
      socket.send(part, { binary: true, fin: i === parts.length - 1 });
    });
    const same = (await next()).equals(Buffer.concat(parts));
    await end(socket);
    return { same, frames };
  },

  async client_closes(target, { code, reason }) {
    const [socket] = await open(target, '/echo');
    const ended = closed(socket);
    socket.close(code, reason);
    return { heard: (await ended).code };
  },

  async server_closes(target, { code, reason }) {
    const [socket] = await open(target, '/close');
    const ended = closed(socket);
    socket.send(`${code} ${reason}`);
    return ended;
  },

  async pings(target) {
    const [socket, next] = await open(target, '/ping');
    const answered = new Promise((resolve) => {
      socket.on('pong', (data) => resolve(data.toString() === 'from the client'));
    });
    socket.ping('from the client');
    const client = await answered;
    socket.send('now you');
    const found = { client, server: await next() };
    await end(socket);
    return found;
  },

  async breaks_off(target) {
    const [socket, next] = await open(target, '/echo');
    socket.send('hello');
    await next();
    socket.terminate();
    return { broke: true };
  },
};

function websocket_call({ scenario, target, args }) {
  return scenarios[scenario](target, args);
}

module.exports = { websocket_serve, websocket_call };
