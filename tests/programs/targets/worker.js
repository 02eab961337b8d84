// SPDX-License-Identifier: Apache-2.0
// Node: timers, round trips to a worker thread, work in libuv's thread pool, and a file system call that waits.
'use strict';
const fs = require('fs');
const crypto = require('crypto');
const { Worker, MessageChannel, isMainThread, parentPort } = require('worker_threads');

function report(text) {
	fs.appendFileSync('steps', text + '\n');
}

function expect(condition, text) {
	if (!condition)
		report('bad ' + text);
}

function sum(bytes) {
	return crypto.createHash('sha256').update(bytes).digest('hex');
}

if (!isMainThread) {
	parentPort.once('message', ({ port }) => {
		let seen = 0;
		port.on('message', (m) => {
			seen++;
			port.postMessage({ n: m.n, seen, digest: sum(m.bytes) });
		});
		port.on('close', () => process.exit(0));
	});
} else {
	const counts = { timer: 0, trip: 0, pool: 0, file: 0 };
	const held = Array.from({ length: 200 }, (_, k) => Buffer.alloc(64 * 1024, 'held ' + k));
	const sums = held.map(sum);
	const worker = new Worker(__filename);
	const { port1, port2 } = new MessageChannel();
	let stopped = false;
	worker.postMessage({ port: port2 }, [port2]);

	const timer = setInterval(() => report('timer ' + ++counts.timer), 10);

	const trip = () => {
		const n = ++counts.trip;
		port1.postMessage({ n, bytes: held[n % held.length] });
	};
	port1.on('message', (m) => {
		expect(m.n === counts.trip && m.seen === counts.trip, 'answer ' + m.n + ' to ' + counts.trip);
		expect(m.digest === sums[m.n % sums.length], 'digest of ' + m.n);
		report('trip ' + m.n);
		if (!stopped)
			setTimeout(trip, 5);
	});
	trip();

	const key = crypto.pbkdf2Sync('pass', 'salt', 500, 32, 'sha256').toString('hex');
	const pool = () => crypto.pbkdf2('pass', 'salt', 500, 32, 'sha256', (error, found) => {
		expect(!error && found.toString('hex') === key, 'key');
		report('pool ' + ++counts.pool);
		if (!stopped)
			setTimeout(pool, 5);
	});
	pool();

	const file = async () => {
		while (!stopped) {
			await fs.promises.readFile('/proc/self/stat');
			report('file ' + ++counts.file);
			await new Promise((resolve) => setTimeout(resolve, 10));
		}
	};
	file();

	const watch = setInterval(() => {
		if (!fs.existsSync('stop'))
			return;
		stopped = true;
		clearInterval(timer);
		clearInterval(watch);
		setTimeout(() => {
			held.forEach((b, k) => expect(sum(b) === sums[k], 'memory ' + k));
			worker.once('exit', () => report('done'));
			port1.close();
		}, 200);
	}, 20);
}
