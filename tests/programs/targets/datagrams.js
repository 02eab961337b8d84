// SPDX-License-Identifier: Apache-2.0
// datagrams.js PORT: a server on UDP that counts what it is asked, in memory only.
'use strict';

const socket = require('dgram').createSocket('udp4');
let count = 0;

socket.on('message', (data, sender) => socket.send(`${++count} ${data}`, sender.port, sender.address));
socket.bind(Number(process.argv[2]), '127.0.0.1');
