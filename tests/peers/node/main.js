// Servers and clients in node, driven by the tests: one JSON request a line on
// standard input, {"id", "do", ...arguments}; one JSON answer a line on standard
// output, {"id", "result"} or {"id", "error"}.  Ends with its standard input.
'use strict';

const readline = require('node:readline');

const commands = {
  ...require('./grpc.js'),
  ...require('./http.js'),
  ...require('./load.js'),
  ...require('./websocket.js'),
};

async function answer(line) {
  const { id, do: name, ...args } = JSON.parse(line);
  try {
    const result = await commands[name](args);
    process.stdout.write(JSON.stringify({ id, result }) + '\n');
  } catch (error) {
    process.stdout.write(JSON.stringify({ id, error: String(error.stack || error) }) + '\n');
  }
}

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', answer);
lines.on('close', () => process.exit(0));
