#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# node.sh PORT BEAMS: an Erlang node that serves UDP at this port, and the port mapper that it is registered with, on TCP.
export ERL_EPMD_PORT="$1" ERL_EPMD_ADDRESS=127.0.0.1
epmd &
erl -noinput -start_epmd false -sname counting@localhost -setcookie sleep -pa "$2" -run datagrams start "$1"
