# SPDX-License-Identifier: Apache-2.0
"""Sockets whose other ends are outside, and those that only root can have: what others do to them, and at which moments."""

import errno
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import harness
from harness import Failure, Skip, case
from selfcheck import KILLS, Program, restore_refused

OLD_ROOM = 212992  # net.core.rmem_max before Linux 6.18
NETLINK_NETFILTER, NFT_MSG_GETTABLE, NLM_F_REQUEST, NLM_F_DUMP = 12, 10 << 8 | 1, 1, 0x300


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


def tcp_no_room(t):
    """More on its way than a kernel lets a receiver have room for: refused, and by its own name."""
    if int(harness.read("/proc/sys/net/core/rmem_max", str(OLD_ROOM))) > OLD_ROOM:
        raise Skip(f"this kernel lets anybody have more room than {OLD_ROOM >> 10} KiB (net.core.rmem_max)")
    program = Program(t, "tcp_connection")
    result = t.torpor("dump", program.root, "-o", t.image(), expect=1)
    if "has room for" not in result.err or "[E-FD-TCP-ROOM]" not in result.err or "rmem_max" not in result.err:
        raise Failure(f"the refusal does not say why: {result}")
    if result.err.count("is a TCP connection") != 2:  # the two ends of the one that is full
        raise Failure(f"other connections are refused as well: {result}")
    program.verify("after the refusal")
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
    whole = min(t.torpor(*arguments, user=False).seconds for _ in range(3))  # the first may take longer than those that are killed
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


PRIVILEGED = {  # what root's programs may have and torpor does not carry: the program, and what torpor must say
    "packet-ring": ("""s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(263, 5, struct.pack("IIII", 4096, 1, 2048, 2))""", "is a packet socket that shares a ring with the kernel"),
    "packet-fanout": ("""s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("lo", 3))
s.setsockopt(263, 18, struct.pack("I", 1))""", "is a packet socket of a group (PACKET_FANOUT)"),
    # A program of two instructions (r0 = 0; exit), loaded by bpf(2) and attached by SO_ATTACH_BPF.
    "filter-ebpf": ("""s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
code = ctypes.create_string_buffer(struct.pack("BBhi", 0xb7, 0, 0, 0) + struct.pack("BBhi", 0x95, 0, 0, 0))
licence = ctypes.create_string_buffer(b"Apache-2.0")
attr = ctypes.create_string_buffer(struct.pack("IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence)) + bytes(104))
program = ctypes.CDLL(None, use_errno=True).syscall(321, 5, attr, len(attr))
s.setsockopt(socket.SOL_SOCKET, 50, program)
os.close(program)""", "with a packet filter that cannot be read (SO_ATTACH_BPF)"),
}


def privileged_refused(t, code, words):
    if os.geteuid() != 0 or t.setup.tier in ("userns", "fork"):
        raise Skip("only root's programs have these")
    harness.own_network()
    code = "import ctypes, os, socket, struct, time\n" + code + "\nopen('ready', 'w')\ntime.sleep(1000)"
    root = t.start([harness.PYTHON, "-c", code], user=False)
    t.until(lambda: os.path.exists(t.path("ready")) or root in t.statuses, 20, "the program is not ready")
    if root in t.statuses:
        raise Skip(f"this kernel does not have it: {harness.read(t.logs + '/stderr', '').strip()[-200:]}")
    result = t.torpor("dump", root, "-o", t.image(), user=False, expect=1)
    if words not in result.err or os.listdir(t.images):
        raise Failure(f"torpor does not say {words!r}, or left {os.listdir(t.images)}: {result}")
    t.untraced(root)
    t.end(root)


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


# ----

def declare():
    case("tcp-outside")(tcp_outside)
    case("tcp-taken")(tcp_taken)
    case("tcp-no-room")(tcp_no_room)
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
    for name, (code, words) in PRIVILEGED.items():
        case(f"refused-{name}", code=code, words=words)(privileged_refused)
