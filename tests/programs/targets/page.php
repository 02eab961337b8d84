<?php
// SPDX-License-Identifier: Apache-2.0
// Counts its requests in a file: nothing else outlives one of them.

$count = (int)@file_get_contents("count") + 1;
file_put_contents("count", $count);
echo $count;
