// HTTP in Node.js: node_http.js server PORT [cluster] | node_http.js client PORT
// As a cluster, the first process accepts and passes each connection to one of its workers.
'use strict';
const http = require('http');
const cluster = require('cluster');
const crypto = require('crypto');
const assert = require('assert');

const digest = (data) => crypto.createHash('sha256').update(data).digest('hex');

function body(stream) {
    return new Promise((resolve, reject) => {
        const parts = [];
        stream.on('data', (part) => parts.push(part));
        stream.on('end', () => resolve(Buffer.concat(parts)));
        stream.on('error', reject);
        stream.on('aborted', () => reject(new Error('the answer was cut off')));
    });
}

function serve(port) {
    http.createServer(async (request, response) => {
        if (request.method === 'POST') {
            response.end(digest(await body(request)));
        } else {
            const size = Number(request.url.slice(1));      // a chunked answer of that many bytes
            for (let at = 0; at < size; at += 50_000) {
                response.write(Buffer.alloc(Math.min(50_000, size - at), at / 50_000 & 255));
            }
            response.end();
        }
    }).listen(port, '127.0.0.1');
}

function server(port, workers) {
    if (workers && cluster.isPrimary) {
        cluster.fork();
        cluster.fork();
        process.on('SIGTERM', () => {
            Object.values(cluster.workers).forEach((worker) => worker.kill('SIGKILL'));
            process.exit(0);
        });
    } else {
        serve(port);
        process.on('SIGTERM', () => process.exit(0));
    }
}

function ask(agent, port, method, path, data) {
    return new Promise((resolve, reject) => {
        const request = http.request({ agent, port, host: '127.0.0.1', method, path }, async (response) => {
            try {
                assert.strictEqual(response.statusCode, 200);
                resolve(await body(response));
            } catch (error) {
                reject(error);
            }
        });
        request.on('error', reject);
        request.end(data);
    });
}

function expected(size) {
    const answer = Buffer.alloc(size);
    for (let at = 0; at < size; at += 50_000) {
        answer.fill(at / 50_000 & 255, at, Math.min(at + 50_000, size));
    }
    return answer;
}

async function talk(agent, port, number) {
    for (let i = 0; i < 30; i++) {
        assert.strictEqual((await ask(agent, port, 'GET', '/10')).length, 10);
    }
    for (const size of [1, 70_000, 3_000_000 + number]) {
        const data = crypto.randomBytes(size);
        assert.strictEqual((await ask(agent, port, 'POST', '/', data)).toString(), digest(data));
        assert(expected(size).equals(await ask(agent, port, 'GET', `/${size}`)), `answer of ${size} bytes`);
    }
}

async function client(port) {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 6 });
    await Promise.all(Array.from({ length: 6 }, (_, number) => talk(agent, port, number)));
    agent.destroy();
    console.log('ok');
}

const [, , role, port, workers] = process.argv;
role === 'server' ? server(Number(port), workers) : client(Number(port)).catch((error) => {
    console.error(error);
    process.exit(1);
});
