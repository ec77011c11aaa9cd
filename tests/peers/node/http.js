// An HTTP application in node, HTTP/1.1 or HTTP/2 in cleartext.
//
// /bytes/N  N bytes            /sum      the body's length and SHA-256
// /facts    what was received  /hints    103 before the answer
// /trailer  a trailer field    /slow/N   N bytes, ten pieces, one every 10 ms
'use strict';

const { createHash } = require('node:crypto');
const http = require('node:http');
const http2 = require('node:http2');

function bytes(size) {
  const filled = Buffer.alloc(size);
  for (let i = 0; i < size; i++) filled[i] = i % 251;
  return filled;
}

const known = new Map();

function sized(size) {
  if (!known.has(size)) known.set(size, bytes(size));
  return known.get(size);
}

function sum(request, response) {
  const hash = createHash('sha256');
  let length = 0;
  request.on('data', (data) => { hash.update(data); length += data.length; });
  request.on('end', () => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({
      length, sha256: hash.digest('hex'), trailers: request.trailers }));
  });
}

const routes = {
  bytes(request, response, size) {
    response.setHeader('content-length', size);
    response.end(sized(size));
  },
  sum,
  facts(request, response) {
    response.setHeader('content-type', 'application/json');
    const { method, url, headers, httpVersion } = request;
    response.end(JSON.stringify({ method, url, headers, version: httpVersion }));
  },
  hints(request, response) {
    response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
    response.end('hinted');
  },
  trailer(request, response) {
    if (request.httpVersion === '1.1') response.setHeader('trailer', 'x-sum');
    response.write('with a trailer');
    response.addTrailers ? response.addTrailers({ 'x-sum': '42' }) : null;
    response.end();
  },
  slow(request, response, size) {
    let left = 10;
    const timer = setInterval(() => {
      response.write(sized(size / 10));
      left -= 1;
      if (left === 0) { clearInterval(timer); response.end(); }
    }, 10);
  },
};

function handle(request, response) {
  const [, name, argument] = request.url.split('?')[0].split('/');
  routes[name](request, response, Number(argument));
}

function http_serve({ version }) {
  const server = version === 2
    ? http2.createServer({ settings: { maxHeaderListSize: 60 << 10 } }, handle)
    : http.createServer({ maxHeaderSize: 60 << 10 }, handle);
  server.on('checkContinue', (request, response) => {
    response.writeContinue();
    handle(request, response);
  });
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve({ port: server.address().port }));
  });
}

module.exports = { http_serve };
