#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run the tests of the kinds: all of them, or those named (shell patterns work).

    run.py [--torpor FILE] [--list] [-jN] [NAME...]

Each program of this folder sets its state up and verifies it from inside (see common.h). How it is compiled, saved
and restored: tests/programs/selfcheck.py.
"""

import errno
import fcntl
import os
import pty
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "programs"))
import harness  # noqa: E402
import queues  # noqa: E402
import selfcheck  # noqa: E402
from harness import Failure, Skip, case  # noqa: E402
from selfcheck import Program  # noqa: E402

KILLS = int(os.environ.get("TORPOR_TEST_KILLS", "30"))
NETLINK_NETFILTER, NFT_MSG_GETTABLE, NLM_F_REQUEST, NLM_F_DUMP = 12, 10 << 8 | 1, 1, 0x300

# Of those that stand for themselves, the name is that of the kind. lock and owner are what any kind may have.
KINDS = """device directory epoll eventfd fanotify gone inotify lock netlink_socket owner path_handle pidfd pipe proc_file
pty regular_file signalfd tcp_connection tcp_socket timerfd udp_socket unix_datagram unix_flight unix_name
unix_pair""".split()

# What refused.c can put at fd 42, and what torpor must say of it.
REFUSED = {
    "timerfd_alarm": "is a timer that can wake up the machine (clock 8)",
    "inotify_events": "has unread events (48 bytes)",
    "inotify_gone": "of which no path was found",
    "pidfd_outside": "which is not in the tree",
    "owner_outside": "(F_SETOWN), which is not in the tree",
    "io_uring": "is an io_uring instance",
    "userfaultfd": "handles page faults",
    "secretmem": "is secret memory",
    "tcp_unaccepted": ") that its listener, which is in the tree, has not accepted yet",
    "tcp_urgent": ") with urgent data",
    "udp_tunnel": "is a UDP socket through which the kernel runs a tunnel (UDP_ENCAP)",
    "udp_corked": "is a UDP socket with a datagram that is not complete",
    "udp_error": "is a UDP socket with an error that the program has not seen yet",
    "netlink_state": "is a netlink socket of protocol 12, behind which the kernel may keep state",
    "netlink_unread": "is a netlink socket with unread messages",
    "mptcp": "is a Multipath TCP socket, at 0.0.0.0:0",
    "vsock": "is a socket for virtual machines and their host (AF_VSOCK)",
    "terminal_line": "is the master of a terminal with line discipline 27",
    "terminal_packet": "is the master of a terminal in packet mode, with an unread event",
    "terminal_unopened": "is the master of a terminal with unread output, whose slave torpor cannot open",
    "unix_outside": "(refused), which is outside the tree (a socket)",
    "unix_waits": "has sent something and waits to be accepted",
    "unix_left": "with a connection that was closed before it was accepted",
    "unix_urgent": "is a unix socket with urgent data (MSG_OOB)",
    "unix_pidfd": "is a unix socket with messages that come with a pidfd of their sender",
    "flying_epoll": "has anon_inode:[eventpoll] in its queue, which watches ",
    "flying_pidfd": "in its queue, which cannot be made again there (pidfd)",
    "message_queue": "is a POSIX message queue that notifies process",
    "lost_name": "has lost that name, and none of its others was found",
    "hidden": "/refused-hidden/work/locked/file) is not found by this path",
    "fanotify_events": "has unread events (fanotify, ",
    "fanotify_mount": "watches a whole mount or file system (fanotify)",
    "gone_handle": "is a handle (O_PATH) of a file that is no longer found by this path",
    "gone_fifo": "is connected to process",
    "foreign_proc": "belongs to process",
    "outside_pipe": "is connected to process",
    "lease_breaking": "holds a lock that cannot be kept (1: LEASE  BREAKING",
}


def refused(t, thing, words):
    program = Program(t, "refused", thing)
    result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
    if "fd 42" not in result.err or words not in result.err:
        raise Failure(f"the refusal does not speak of fd 42 and say {words!r}: {result}")
    if os.listdir(t.images):
        raise Failure(f"the refused dump left {os.listdir(t.images)}")
    t.untraced(program.root)
    program.verify("after the refusal")
    program.end()


# ---- what others do while a program sleeps ----

def restore_refused(t, root, words):
    """A restore that fails, says why, and leaves nothing."""
    before = set(os.listdir(t.work))
    result = t.restore(root, expect=1)
    if words not in result.err:
        raise Failure(f"torpor does not say {words!r}: {result}")
    t.until(lambda: not harness.stat_of(root), 10, "the end of the failed restore's tasks")
    if set(os.listdir(t.work)) != before:
        raise Failure(f"the failed restore left {set(os.listdir(t.work)) - before}")
    return result


TAKEN = {  # file: how it is taken, what torpor must say
    "exclusive": (lambda file: fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB), "the lock (flock)"),
    ".": (lambda file: fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB), "the lock (flock)"),
    "posix": (lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12), "a lock (F_SETLK)"),
    "ofd": (lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0), "a lock (F_OFD_SETLK)"),
    "write lease": (lambda file: None, "the lease"),
}


def lock_taken(t):
    program = Program(t, "lock")
    t.dump(program.root)
    for name, (take, what) in TAKEN.items():
        path = os.path.normpath(t.path(name))
        fd = os.open(path, os.O_RDONLY if name == "." else os.O_RDWR)
        try:
            take(fd)
            result = restore_refused(t, program.root, f"{what} of {path} cannot be had again")
        finally:
            os.close(fd)
        if name == "posix" and f"process {os.getpid()} holds it" not in result.err:
            raise Failure(f"torpor does not say who holds the lock: {result}")
    t.restore(program.root)
    program.verify("after all the failures")
    program.end()


def inotify_replaced(t):
    program = Program(t, "inotify")
    t.dump(program.root)
    os.rename(t.path("place/watched"), t.path("kept"))
    restore_refused(t, program.root, "which is watched, is no longer there")
    t.write("place/watched", "")
    restore_refused(t, program.root, "which is watched, was replaced by another")
    os.rename(t.path("kept"), t.path("place/watched"))
    t.restore(program.root)
    program.verify("after the failures")
    program.end()


# ---- TCP connections that lead outside ----

class Server:
    """Serves the connections of tcp_outside.c and tcp_kept.c, which say what it does, in threads of this process."""

    def __init__(self, family=socket.AF_INET, work=None):
        self.listener = socket.socket(family)
        self.listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.listener.listen(50)
        self.port = self.listener.getsockname()[1]
        self.work = work
        self.go = threading.Event()  # those that are told to hold may read
        self.connections = {}  # by what was said first; kept open
        self.ends = []  # what was read at the end of each: "end", or the name of an error
        self.got = {}  # by those that were told to hold: whether they got what they should
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        stream = connection.makefile("rb", buffering=0)
        first = stream.readline().decode().strip()
        self.connections.setdefault(first, []).append(connection)
        try:
            if first == "say":
                connection.send(b"unread")
            elif first == "end":
                connection.send(b"last")
                connection.shutdown(socket.SHUT_WR)
            elif first == "pour":
                connection.sendall(bytes(i % 251 for i in range(3000000)))
            elif first.startswith("hold"):
                self.go.wait()
                self.got[first] = self.read_stuffed(stream, first)
            while data := stream.read(65536):
                if first in ("echo", "say"):
                    connection.send(data)
            self.ends.append("end")
        except OSError as e:
            self.ends.append(errno.errorcode[e.errno])

    def read_stuffed(self, stream, first):
        total = int(harness.read(os.path.join(self.work, "stuffed_end" if first == "hold end" else "stuffed")))
        data = b""
        while len(data) < total and (more := stream.read(65536)):
            data += more
        return data == bytes(i % 251 for i in range(total))


def tcp_outside(t):
    server = Server()
    program = Program(t, "tcp_outside", str(server.port))
    for command in (["dump", program.root, "-o", t.image()], ["check", program.root]):
        result = t.torpor(*command, expect=1)
        for state in ("established", "CLOSE_WAIT", "FIN_WAIT"):
            words = f"is a TCP connection ({state}"
            if words not in result.err or f" to 127.0.0.1:{server.port}) whose other end is outside" not in result.err:
                raise Failure(f"the refusal does not say {words!r}: {result}")
        if "--tcp close" not in result.err:
            raise Failure(f"the refusal does not offer --tcp close: {result}")
    program.verify("after the refusals")
    t.torpor("dump", program.root, "-o", t.image(), "--tcp", "close")
    t.until(lambda: len(server.ends) == 4, 5, f"the server's connections ended: {server.ends}")
    t.write("reset", "")
    t.restore(program.root)
    program.verify("after the restore")
    program.verify("a second time after the restore")
    program.end()


def tcp_close_keep_running(t):
    server = Server()
    program = Program(t, "tcp_outside", str(server.port))
    t.torpor("dump", program.root, "-o", t.image(), "--tcp", "close", "--keep-running")
    program.verify("after a dump that let it run on")
    if server.ends != ["end"]:  # of the one that the program has shut down
        raise Failure(f"the server's connections ended: {server.ends}")
    program.kill()
    t.write("reset", "")
    t.restore(program.root)
    program.verify("after the restore")
    program.end()


def tcp_taken(t):
    """Somebody has the address of a listener: the restore fails, leaves nothing, and can be tried again at once."""
    program = Program(t, "tcp_socket")
    t.dump(program.root)
    ports = re.findall(r"listening at 127\.0\.0\.1:(\d+)", t.torpor("inspect", t.image()).out)
    for port in map(int, set(ports)):
        with socket.create_server(("127.0.0.1", port)):
            restore_refused(t, program.root, f"127.0.0.1:{port}")
    if len(set(ports)) != 4:  # alone, plain, a group at one port, one that is told only of data
        raise Failure(f"inspect shows other listeners: {ports}")
    t.restore(program.root)
    program.verify("after the failures")
    program.end()


def tcp_kept_failed(t):
    """A restore that fails does not open the lock, and can be tried again."""
    harness.own_network()
    server = Server(socket.AF_INET, t.work)
    program = Program(t, "tcp_kept", f"4:{server.port}")
    t.torpor("dump", program.root, "-o", t.image(), user=False)
    for number in range(3):
        result = t.torpor("restore", t.image(), "--detach", "--pidfile", "/nonexistent/pid", user=False, expect=None)
        if result.status == 0 or tables_of(t) != 1 or server.ends != ["end"]:
            raise Failure(f"{tables_of(t)} locks, connections ended: {server.ends}, {result}")
    t.statuses.clear()
    t.torpor("restore", t.image(), "--detach", user=False)
    program.verify("after the failures")
    if tables_of(t) or server.ends != ["end"]:
        raise Failure(f"{tables_of(t)} locks are there after the restore; connections ended: {server.ends}")
    program.kill()


def tcp_connecting(t):
    """A listener that is full does not answer; then it has room."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    first = socket.create_connection(listener.getsockname())
    program = Program(t, "tcp_connecting", str(listener.getsockname()[1]))
    for number in range(2):
        t.until(lambda: not harness.stat_of(program.root) or len(harness.tree_of(program.root)) == 2, 5, "the second task")
        t.cycle(program.root)
        program.verify(f"after restore {number + 1}")
    t.write("accepted", "")
    listener.listen(10)
    listener.settimeout(20)
    connections = [listener.accept()[0] for _ in range(3)]
    program.verify("when the connections are made")
    got = {c.recv(10) for c in connections[1:]}
    if got != {b"waiting", b"blocked"}:
        raise Failure(f"the connections bring {got}")
    first.close()
    program.kill()


def tables_of(t):
    """What nf_tables has: asked for by a dump of the tables."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as s:
        s.send(struct.pack("IHHII", 20, NFT_MSG_GETTABLE, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + bytes(4))
        data = s.recv(65536)
    return data.count(b"torpor-")


def give_capabilities(t):
    """Let the user's torpor be one that may keep connections alive."""
    t.setup.dumper = t.setup.binary = shutil.copy(t.setup.binary, os.path.join(t.base, "torpor"))
    subprocess.run(["setcap", "cap_checkpoint_restore,cap_net_admin,cap_net_raw=ep", t.setup.binary], check=True)


def tcp_kept(t, version, user=False):
    """Connections to a server outside stay alive, which root can see to, or whoever has the capabilities."""
    harness.own_network()
    if user:
        give_capabilities(t)
    server = Server(socket.AF_INET if version == 4 else socket.AF_INET6, t.work)
    program = Program(t, "tcp_kept", f"{version}:{server.port}")
    t.until(lambda: len(server.connections) == 7, 5, f"the server has {server.connections}")
    for number in range(3):
        t.torpor("dump", program.root, "-o", t.image(), user=user)
        if tables_of(t) != 1:
            raise Failure(f"{tables_of(t)} locks are there while the program sleeps")
        t.statuses.clear()
        t.torpor("restore", t.image(), "--detach", user=user)
        if tables_of(t) or server.ends != ["end"]:
            raise Failure(f"{tables_of(t)} locks are there after the restore; connections ended: {server.ends}")
        program.verify(f"after restore {number + 1}")
        os.unlink(t.image())
    server.connections["finished"][0].send(b"late")
    t.write("all", "")
    server.go.set()
    program.verify("when all is read")
    program.verify("a second time when all is read")
    t.until(lambda: len(server.got) == 2, 10, f"what was held did not arrive: {server.got}")
    if server.got != {"hold": True, "hold end": True}:
        raise Failure(f"what was held did not arrive as it was sent: {server.got}")
    t.until(lambda: server.ends == ["end"] * 2, 5, f"connections ended: {server.ends}")
    program.end()
    t.until(lambda: len(server.ends) == 8 and set(server.ends) == {"end"}, 5, f"connections ended: {server.ends}")


def kill_dumps(t, program):
    """Kill torpor at random moments of a dump; the program must not notice, and no lock may be left."""
    arguments = ["dump", program.root, "-o", t.image(), "--keep-running"]
    whole = t.torpor(*arguments, user=False).seconds
    killed = 0
    for number in range(KILLS):
        pid, call = t.torpor_start(arguments, user=False)
        time.sleep(random.uniform(0, whole))  # any moment will do
        if pid not in t.statuses and harness.stat_of(pid):
            os.kill(pid, signal.SIGKILL)
        killed += t.wait_exit(pid) == -signal.SIGKILL
        t.until(lambda: not tables_of(t), 5, "the end of the lock")
        program.verify(f"after kill {number + 1}")
    if killed < KILLS / 4:
        raise Failure(f"only {killed} of {KILLS} dumps were killed")
    t.log(f"{killed} of {KILLS} dumps were killed")
    # A sender that has waited for long asks its receiver but now and then for room, and until then the dump is refused.
    t.until(lambda: t.torpor(*arguments, user=False, expect=None).status == 0, 20, "a dump that is not killed", pause=1)


def tcp_kept_killed(t):
    harness.own_network()
    server = Server(socket.AF_INET, t.work)
    program = Program(t, "tcp_kept", f"4:{server.port}")
    kill_dumps(t, program)
    if server.ends != ["end"]:
        raise Failure(f"connections ended: {server.ends}")
    program.kill()


def torpors():
    """Processes of torpor below this one."""
    stats = harness.all_stats()
    return [pid for pid in harness.tree_of(os.getpid(), stats) if stats[pid].comm == "torpor"]


def kill_at_each(t, program, name, step=1):
    """Kill torpor at each of these system calls of a dump. Returns at how many of them."""
    status, number, kills = -signal.SIGKILL, 1 - step, 0
    while status == -signal.SIGKILL:
        number += step
        t.launcher = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={name}", "-e",
                      f"inject={name}:signal=SIGKILL:when={number}"]
        pid, call = t.torpor_start(["dump", program.root, "-o", t.image(), "--keep-running"], user=False)
        status = t.wait_exit(pid)
        kills += status == -signal.SIGKILL
        t.until(lambda: not tables_of(t) and not torpors(), 5, "the end of the lock, and of the guard")
        program.verify(f"after a kill at {name} number {number}")
    if status:
        raise Failure(f"a dump that was not killed ended with {status}")
    t.launcher = []
    os.unlink(t.image())
    return kills


def tcp_repair_killed(t):
    """Kill torpor at every look at the size of a queue: some come while it is in repair, which the guard must end."""
    harness.own_network()
    server = Server(socket.AF_INET, t.work)
    program = Program(t, "tcp_kept", f"4:{server.port}")
    kills = kill_at_each(t, program, "ioctl")
    if kills < 24 or server.ends != ["end"]:
        raise Failure(f"{kills} kills; connections ended: {server.ends}")
    program.kill()


def peek_killed(t, kind):
    """Kill torpor while it looks at datagrams: they are all there, and where a peek looks is as it was."""
    harness.own_network()
    program = Program(t, kind)
    kills = kill_at_each(t, program, "recvmsg", 3)
    if kills < 5:
        raise Failure(f"only {kills} kills")
    program.end()


def tcp_connection_killed(t):
    harness.own_network()
    program = Program(t, "tcp_connection")
    kill_dumps(t, program)
    program.kill()


# ---- UDP sockets whose peers are outside ----

FOREIGN = "192.0.2.77"  # nobody's (RFC 5737)


def udp_raw(source, port, to):
    """A datagram from an address that is not ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        data = b"foreign"
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 9, socket.IPPROTO_UDP, 0, socket.inet_aton(source),
                             socket.inet_aton("127.0.0.1"))
        s.sendto(header + struct.pack("!HHHH", port, to, 8 + len(data), 0) + data, ("127.0.0.1", 0))


def udp_outside(t, user):
    """Unread datagrams whose senders' addresses are not to be had: root can, others are told that they are lost."""
    harness.own_network()
    program = Program(t, "udp_outside")
    port = int(harness.read(t.path("port")))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        client.sendto(b"live", ("127.0.0.1", port))
        udp_raw(FOREIGN, 53, port)
        t.torpor("dump", program.root, "-o", t.image(), user=user)
        t.statuses.clear()
        result = t.torpor("restore", t.image(), "--detach", user=user)
        lost = "has lost 2 of 2 unread datagrams" in result.err
        if lost != user or (not user and result.err):
            raise Failure(f"unexpected words about what is lost: {result}")
        t.write("expected", "" if user else f"live 127.0.0.1 {client.getsockname()[1]}\nforeign {FOREIGN} 53\n")
        program.verify("after the restore")
        client.sendto(b"later", ("127.0.0.1", port))
        t.write("expected", f"later 127.0.0.1 {client.getsockname()[1]}\n")
        program.verify("with what was sent later")
    program.end()


def udp_taken(t):
    """Somebody has the address: the restore fails, says so, and can be tried again."""
    program = Program(t, "udp_outside")
    port = int(harness.read(t.path("port")))
    t.dump(program.root)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
        restore_refused(t, program.root, f"binding a socket to 127.0.0.1:{port}")
    t.restore(program.root)
    t.write("expected", "")
    program.verify("after the failure")
    program.end()


SIOCSIFADDR = 0x8916


def set_address(host):
    """Of the loopback, besides its own, with the network of eight bits that it is in. 0.0.0.0: none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCSIFADDR, struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(host)))


def udp_moved(t):
    """The machine has not the address that it had, or no way to the peer."""
    harness.own_network()
    set_address("10.9.9.1")
    program = Program(t, "udp_moved", "127.0.0.1 10.9.9.1")
    t.write("address", "10.9.9.1")
    program.verify("before")
    t.dump(program.root)
    set_address("0.0.0.0")
    result = t.restore(program.root)
    if "has another address than 10.9.9.1:" not in result.err:
        raise Failure(f"torpor does not say that the address is another: {result}")
    t.write("address", "127.0.0.1")
    program.verify("with another address")
    program.end()
    os.unlink(t.path("pid"))

    set_address("10.9.9.1")
    program = Program(t, "udp_moved", "10.9.9.1")
    t.dump(program.root)
    set_address("0.0.0.0")
    restore_refused(t, program.root, "connecting a socket to 10.9.9.1:9999: Network is unreachable")
    set_address("10.9.9.1")
    t.restore(program.root)
    t.write("address", "10.9.9.1")
    program.verify("after the failure")
    program.end()


def udp_low_port(t):
    """A port below 1024: for root, and for whoever has a torpor that may."""
    harness.own_network()
    program = Program(t, "udp_outside", "low", user=False)
    t.torpor("dump", program.root, "-o", t.image(), user=False)
    t.statuses.clear()
    t.torpor("restore", t.image(), "--detach", user=False)
    t.write("expected", "")
    program.verify("after the restore")
    program.end()


def permit_pings(groups):
    with open("/proc/sys/net/ipv4/ping_group_range", "w") as f:
        f.write(groups)


def ping_sockets(t):
    """What everybody may have, where it is permitted."""
    harness.own_network()
    permit_pings("0 2147483647")
    program = Program(t, "raw_socket", "pings")
    program.verify("without torpor")
    for number in range(harness.ROUNDS):
        t.cycle(program.root)
        program.verify(f"in round {number + 1}")
    t.dump(program.root)
    permit_pings("1 0")
    result = t.restore(program.root, expect=3)
    if "net.ipv4.ping_group_range" not in result.err:
        raise Failure(f"torpor does not say what would help: {result}")
    permit_pings("0 2147483647")
    t.restore(program.root)
    program.verify("after the failure")
    program.end()


def raw_sockets(t):
    """What only root may have."""
    harness.own_network()
    permit_pings("0 2147483647")
    program = Program(t, "raw_socket", user=False)
    program.verify("without torpor")
    for number in range(harness.ROUNDS):
        t.torpor("dump", program.root, "-o", t.image(), user=False)
        t.statuses.clear()
        t.torpor("restore", t.image(), "--detach", user=False)
        os.unlink(t.image())
        program.verify(f"in round {number + 1}")
    program.end()


def raw_of_others(t):
    """A user whose program was given such sockets cannot have them made again, whatever torpor's file permits."""
    give_capabilities(t)
    for arguments, words in (((socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), "is a raw socket (protocol 1)"),
                             ((socket.AF_PACKET, socket.SOCK_RAW, 0), "captures packets, and you may not make it again")):
        with socket.socket(*arguments) as s:
            program = Program(t, "outside", stdin=s, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
            if "fd 0" not in result.err or words not in result.err:
                raise Failure(f"torpor does not say {words!r}: {result}")
            program.kill()
            os.unlink(t.path("pid"))


# ---- standard streams that lead outside ----

def restore_joined(t, root, stdin, stdout, stderr):
    """Restore with these streams; torpor itself has nothing to say on them."""
    t.statuses.clear()
    t.torpor("restore", t.image(), "--detach", "--pidfile", os.path.join(t.images, "pid"), stdin=stdin, stdout=stdout, stderr=stderr)
    if not harness.stat_of(root):
        raise Failure(f"{root} is not there after the restore")


def outside_pipes(t):
    ends = [os.pipe() for stream in range(3)]
    program = Program(t, "outside", stdin=ends[0][0], stdout=ends[1][1], stderr=ends[2][1])
    t.dump(program.root)
    for a, b in ends:
        os.close(a)
        os.close(b)
    t.write("in", "a line\n")
    t.write("out", "")
    t.write("err", "")
    with open(t.path("in")) as i, open(t.path("out"), "a") as o, open(t.path("err"), "a") as e:
        restore_joined(t, program.root, i, o, e)
    program.verify("after the restore")
    program.end()
    for name, expected in ("out", "out\nnine\nsecond\n"), ("err", "err\n"):
        if harness.read(t.path(name)) != expected:
            raise Failure(f"std{name} got {harness.read(t.path(name))!r}")


def outside_hidden(t):
    """Standard streams on files in a folder of root's: the program may use them, but nobody may open them again for it."""
    if t.setup.account is None:
        raise Skip("only root has such a folder")
    folder = t.path("hidden")
    os.mkdir(folder, 0o700)
    for name in ("in", "out", "err"):
        t.write(name, "a line\n" if name == "in" else "")
        t.write(f"hidden/{name}", "")
    with open(f"{folder}/in") as i, open(f"{folder}/out", "a") as o, open(f"{folder}/err", "a") as e:
        program = Program(t, "outside", stdin=i, stdout=o, stderr=e)
    t.dump(program.root)
    with open(t.path("in")) as i, open(t.path("out"), "a") as o, open(t.path("err"), "a") as e:
        restore_joined(t, program.root, i, o, e)
    program.verify("after the restore")
    program.end()
    if harness.read(t.path("out")) != "out\nnine\nsecond\n":
        raise Failure(f"stdout got {harness.read(t.path('out'))!r}")


def pipe_external(t):
    """A pipe that leads outside at another fd than the standard streams: refused, or let go."""
    (left, writer), (reader, written) = os.pipe(), os.pipe()
    os.write(writer, b"left")
    program = Program(t, "pipe_external", f"{left} {written}", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL, pass_fds=(left, written))
    os.close(left)
    os.close(written)
    result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
    for fd in (left, written):
        if not re.search(rf"fd {fd} \(pipe:.* is connected to a process outside the tree.*--external", result.err):
            raise Failure(f"the refusal does not speak of fd {fd} and --external: {result}")
    program.verify("after the refusal")
    t.torpor("dump", program.root, "-o", t.image(), "--external")
    os.close(writer)
    t.restore(program.root)
    t.write("let go", "")
    program.verify("after the restore")
    program.end()
    os.close(reader)


def make_terminal(t):
    master, slave = pty.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    t.setup.own(os.ttyname(slave))
    return master, slave


def outside_terminal(t):
    master, slave = make_terminal(t)
    program = Program(t, "outside", "terminal", stdin=slave, stdout=slave, stderr=slave)
    t.dump(program.root)
    os.close(slave)
    os.close(master)
    master, slave = make_terminal(t)
    restore_joined(t, program.root, slave, slave, slave)
    os.write(master, b"a line\n")
    program.verify("after the restore")
    program.end()
    got = os.read(master, 1000).decode()
    if got != "out\nnine\nerr\nsecond\n":
        raise Failure(f"the terminal got {got!r}")


# ---- pseudo-terminals of the tree ----

def terminals_of(root):
    """The numbers of the terminals that a task has open and that are not hung up."""
    links = [os.readlink(f"/proc/{root}/fd/{fd}") for fd in os.listdir(f"/proc/{root}/fd")]
    return sorted({int(link[9:]) for link in links if link.startswith("/dev/pts/") and link[9:].isdigit()})


def pty_renumbered(t):
    """Somebody has taken the numbers of some of its terminals meanwhile."""
    program = Program(t, "pty")
    before = terminals_of(program.root)
    t.dump(program.root)
    others = [pty.openpty() for number in range(3)]
    taken = [int(os.ttyname(slave)[9:]) for _, slave in others]
    if not set(taken) & set(before):
        raise Failure(f"the terminals {taken} are not among {before}")
    t.restore(program.root)
    after = terminals_of(program.root)
    if len(after) != len(before) or set(after) & set(taken):
        raise Failure(f"the terminals {before} became {after} while {taken} were taken")
    program.verify("under other numbers")
    for end in sum(others, ()):
        os.close(end)
    t.cycle(program.root)
    program.verify("after another cycle")
    program.end()


def stop_and_kill(t, pid):
    """Kill torpor, if it is still there. Returns its PID and that of the process that it may have made."""
    try:
        os.kill(pid, signal.SIGSTOP)
        t.until(lambda: t.stands_still(pid), 10, "torpor does not stop")
        torpor = harness.tree_of(pid)
        os.kill(pid, signal.SIGKILL)
        return torpor
    except ProcessLookupError:
        return []


def pty_killed(t):
    """torpor is killed while it looks: what was typed, written and stopped is still there."""
    program = Program(t, "pty")
    took = t.torpor("check", program.root).seconds
    before = terminals_of(program.root)
    for number in range(4 * harness.ROUNDS):
        pid, call = t.torpor_start(["check", program.root])
        time.sleep(random.uniform(0.1, 1) * took)
        torpor = stop_and_kill(t, pid)
        t.until(lambda: not any(map(harness.stat_of, torpor)), 10, "the end of the process that looks into terminals")
        t.log(f"killed a torpor of {len(torpor)} processes")
        program.verify(f"after kill {number + 1}")
    if terminals_of(program.root) != before:
        raise Failure(f"the terminals {before} became {terminals_of(program.root)}")
    program.end()


TIOCGLCKTRMIOS, TIOCSLCKTRMIOS, LOCKED = 0x5456, 0x5457, b"\xff" * 36


def pty_locked_modes(t):
    """Only the privileged can lock modes, so it is not the program that does."""
    if os.geteuid() != 0 or t.setup.tier in ("userns", "fork"):
        raise Skip("only the privileged can lock the modes of a terminal")
    program = Program(t, "pty")

    def with_terminals(function):
        for number in terminals_of(program.root):
            fd = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                function(fd, number)
            finally:
                os.close(fd)

    def check_locked(fd, number):
        now = fcntl.ioctl(fd, TIOCGLCKTRMIOS, bytes(36))
        if now != LOCKED:
            raise Failure(f"the locked modes of /dev/pts/{number} are {now}")

    with_terminals(lambda fd, number: fcntl.ioctl(fd, TIOCSLCKTRMIOS, LOCKED))
    program.verify("with locked modes")
    t.cycle(program.root)
    with_terminals(check_locked)
    program.verify("after the restore")
    program.end()


# ---- what is made on disk for a moment ----

def on_disk(t):
    """What a restore must not leave behind."""
    return set(os.listdir(t.work))


def sockets_aside(t):
    """The folders in which sockets are bound whose path does not lead to them."""
    return {name for name in os.listdir("/tmp") if name.startswith("torpor-socket-")}


def killed_on_disk(t, kind, look):
    """What has no name gets one for a moment when it is made again; torpor is killed then, and before and after."""
    if look == sockets_aside and (harness.unshare(harness.CLONE_NEWNS) or
                                  subprocess.run("mount --make-rprivate / && mount -t tmpfs none /tmp", shell=True).returncode):
        raise Skip("no folder /tmp of its own")
    program = Program(t, kind)
    t.dump(program.root)
    before, root = look(t), program.root
    t.restore(root)
    program.kill()
    took, killed = t.torpor("restore", t.image(), "--detach").seconds, 0
    program.kill()
    for number in range(KILLS):
        pid, call = t.torpor_start(["restore", t.image(), "--detach"])
        time.sleep(random.uniform(0, took))
        if pid not in t.statuses and harness.stat_of(pid):
            os.kill(pid, signal.SIGKILL)
        if t.wait_exit(pid) == -signal.SIGKILL:
            killed += 1
        else:
            took *= 0.9  # it was measured when more went on
        if harness.stat_of(root):
            program.kill()
        t.until(lambda: look(t) == before, 5, f"kill {number + 1} left {look(t) ^ before}")
    if killed < KILLS / 4:
        raise Failure(f"only {killed} of {KILLS} restores were killed")
    t.restore(root)
    program.verify("after all the kills")
    program.end()


def gone_failed(t):
    """A restore that fails at its very end."""
    program = Program(t, "gone")
    t.dump(program.root)
    before = on_disk(t)
    t.torpor("restore", t.image(), "--detach", "--pidfile", "/nonexistent/pid", expect=None)
    t.until(lambda: not harness.stat_of(program.root), 10, "the end of the failed restore's tasks")
    if on_disk(t) != before:
        raise Failure(f"the failed restore left {on_disk(t) ^ before}")
    t.restore(program.root)
    program.verify("after the failure")
    program.end()


# ---- file systems whose numbers differ ----

# What compares inode and device numbers, and is tried on overlayfs too, whose stat(2) shows others than the kernel's.
OVERLAID = "directory fanotify gone inotify lock path_handle pipe regular_file unix_name".split()


def overlaid(t, kind):
    """In a folder of overlayfs, with layers of two file systems."""
    layers = os.path.join(t.base, "layers")
    os.mkdir(layers)
    if os.geteuid() != 0 or harness.unshare(harness.CLONE_NEWNS):
        raise Skip("nothing can be mounted")
    for command in (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "none", layers],
                    ["mkdir", f"{layers}/upper", f"{layers}/work", f"{t.base}/lower"],
                    ["mount", "-t", "overlay", "overlay", "-o",
                     f"lowerdir={t.base}/lower,upperdir={layers}/upper,workdir={layers}/work", t.work]):
        if subprocess.run(command).returncode:
            raise Skip(f"{' '.join(command)} is not possible")
    t.setup.own(t.work)
    selfcheck.plain(t, kind)


def declare():
    for kind in KINDS:
        selfcheck.declare(kind)
    for kind in OVERLAID:
        case(f"{kind}-overlaid", kind=kind)(overlaid)
    queues.declare()
    case("outside-pipes")(outside_pipes)
    case("outside-terminal")(outside_terminal)
    case("outside-hidden")(outside_hidden)
    case("pipe-external")(pipe_external)
    case("tcp-outside")(tcp_outside)
    case("tcp-taken")(tcp_taken)
    case("tcp-kept-failed")(tcp_kept_failed)
    case("tcp-connecting")(tcp_connecting)
    case("tcp-close-keep-running")(tcp_close_keep_running)
    for version in (4, 6):
        case(f"tcp-kept-{version}", version=version)(tcp_kept)
    case("tcp-kept-user", needs=["setcap"], version=4, user=True)(tcp_kept)
    case("tcp-kept-killed")(tcp_kept_killed)
    case("tcp-repair-killed", needs=["strace"], limit=300)(tcp_repair_killed)
    case("tcp-connection-killed")(tcp_connection_killed)
    case("udp-outside-user", user=True)(udp_outside)
    case("udp-outside-root", user=False)(udp_outside)
    case("udp-taken")(udp_taken)
    case("udp-moved")(udp_moved)
    case("udp-low-port")(udp_low_port)
    for kind in "udp_socket", "unix_datagram", "unix_pair":
        case(f"{kind}-peek-killed", needs=["strace"], kind=kind)(peek_killed)
    case("ping-sockets")(ping_sockets)
    case("raw-sockets")(raw_sockets)
    case("raw-of-others", needs=["setcap"])(raw_of_others)
    case("pty-renumbered")(pty_renumbered)
    case("pty-killed")(pty_killed)
    case("pty-locked-modes")(pty_locked_modes)
    case("lock-taken")(lock_taken)
    case("inotify-replaced")(inotify_replaced)
    case("gone-killed", kind="gone", look=on_disk)(killed_on_disk)
    case("unix_name-killed", kind="unix_name", look=sockets_aside)(killed_on_disk)
    case("gone-failed")(gone_failed)
    for thing, words in REFUSED.items():
        case(f"refused-{thing}", thing=thing, words=words)(refused)


if __name__ == "__main__":
    declare()
    sys.exit(selfcheck.main(HERE, __doc__))
