% SPDX-License-Identifier: Apache-2.0
% A server on UDP, at the port of its argument, behind which a registered process counts what it is asked.
-module(datagrams).
-export([start/1]).

start([Port]) ->
	register(counter, spawn(fun() -> count(0) end)),
	spawn(fun() -> open(list_to_integer(Port)) end).

open(Port) ->
	{ok, Socket} = gen_udp:open(Port, [binary, {ip, {127, 0, 0, 1}}, {active, true}]),
	serve(Socket).

count(N) ->
	receive {ask, From} -> From ! {count, N + 1, node()} end,
	count(N + 1).

% The counter is asked by its name at this node: without distribution there would be no such node.
serve(Socket) ->
	receive
		{udp, Socket, Host, Port, Data} ->
			{counter, node()} ! {ask, self()},
			receive {count, N, Node} -> ok end,
			true = is_alive() andalso lists:prefix("counting@", atom_to_list(Node)),
			gen_udp:send(Socket, Host, Port, [integer_to_list(N), " ", Data])
	end,
	serve(Socket).
