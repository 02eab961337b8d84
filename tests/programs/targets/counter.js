// SPDX-License-Identifier: Apache-2.0
// counter.js PORT: an HTTP server that counts its requests, in memory only.
'use strict';

let count = 0;
require('http').createServer((request, response) => response.end(String(++count)))
	.listen(Number(process.argv[2]), '127.0.0.1');
