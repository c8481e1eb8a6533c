// Plain sockets in Node.js: node_net.js server PORT | node_net.js client PORT CONNECTIONS
'use strict';
const net = require('net');
const crypto = require('crypto');
const assert = require('assert');
const { once } = require('events');

function server(port) {
    // A connection that says "reset" is reset, one that says "end" is ended; all others hear their own words.
    const listener = net.createServer({ allowHalfOpen: true }, (socket) => {
        socket.on('error', () => {});
        socket.once('data', (first) => {
            if (first.toString() === 'reset') {
                socket.resetAndDestroy();
            } else if (first.toString() === 'end') {
                socket.end('bye');
            } else {
                socket.write(first);
                socket.pipe(socket);
            }
        });
    });
    listener.listen(port, '127.0.0.1');
    process.on('SIGTERM', () => process.exit(0));
}

async function connect(port) {
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    await once(socket, 'connect');
    return socket;
}

// Resolves with the next `size` bytes.
function receive(socket, size) {
    return new Promise((resolve, reject) => {
        const parts = [];
        let got = 0;
        const take = () => {
            let part;
            while (got < size && (part = socket.read(Math.min(size - got, socket.readableLength || 1))) !== null) {
                parts.push(part);
                got += part.length;
            }
            if (got === size) {
                socket.off('readable', take).off('end', ended);
                resolve(Buffer.concat(parts));
            }
        };
        const ended = () => reject(new Error(`the stream ended after ${got} of ${size} bytes`));
        socket.on('readable', take).on('end', ended);
        take();
    });
}

async function echo(port, number) {
    const socket = await connect(port);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 1000);
    for (let i = 0; i < 60; i++) {
        const message = crypto.randomBytes(1 + (i * 97) % 2000);
        socket.write(message);
        assert.deepStrictEqual(await receive(socket, message.length), message, `connection ${number}, message ${i}`);
    }
    const stream = crypto.randomBytes(2_000_000 + number);
    const received = receive(socket, stream.length);
    for (let at = 0; at < stream.length;) {
        const size = crypto.randomInt(1, 200_000);
        if (!socket.write(stream.subarray(at, at + size))) {
            await once(socket, 'drain');
        }
        at += size;
    }
    socket.end();
    assert(stream.equals(await received), `connection ${number}: the stream came back changed`);
    assert.strictEqual(socket.read(), null);
    if (!socket.readableEnded) {
        await once(socket, 'end');
    }
}

async function ended(port) {
    const socket = await connect(port);
    socket.write('end');
    assert.strictEqual((await receive(socket, 3)).toString(), 'bye');
    socket.resume();
    await once(socket, 'end');
    socket.destroy();
}

async function reset(port) {
    const socket = await connect(port);
    const failed = once(socket, 'error');
    socket.resume();
    socket.write('reset');
    const [error] = await failed.catch((thrown) => [thrown]);
    assert.strictEqual(error.code, 'ECONNRESET');
}

async function idle(port) {
    const socket = await connect(port);
    socket.write('x');
    await receive(socket, 1);
    const before = Date.now();
    socket.setTimeout(200);
    await once(socket, 'timeout');
    assert(Date.now() - before < 2000);
    socket.destroy();
}

async function client(port, connections) {
    await Promise.all(Array.from({ length: connections }, (_, number) => echo(port, number)));
    await Promise.all([ended(port), reset(port), idle(port)]);
    console.log('ok');
}

const [, , role, port, connections] = process.argv;
role === 'server' ? server(Number(port)) : client(Number(port), Number(connections)).catch((error) => {
    console.error(error);
    process.exit(1);
});
