/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/udp.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>

#include "unix_common.h"

/*
 * One thing that cannot be saved, named by the argument. It is put at fd 42. The
 * program verifies that a refused dump leaves it alone. Exit status 77: the
 * kernel does not have it, or does not let this user make it.
 */

enum { PLACE = 42, SKIP = 77 };

static void put(int fd)
{
	if (fd < 0 && (errno == EPERM || errno == EACCES || errno == ENOSYS || errno == EINVAL ||
		       errno == EAFNOSUPPORT || errno == EPROTONOSUPPORT))
		exit(SKIP);
	check_call(fd);
	check_call(dup2(fd, PLACE));
	check_call(close(fd));
}

/* Only with CAP_WAKE_ALARM. */
static void put_timerfd_alarm(void)
{
	struct itimerspec t = { .it_value.tv_sec = 3600 };

	put(timerfd_create(CLOCK_REALTIME_ALARM, 0));
	check_call(timerfd_settime(PLACE, 0, &t, NULL));
}

static void put_inotify_events(void)
{
	put(inotify_init1(0));
	check_call(inotify_add_watch(PLACE, ".", IN_CREATE));
	check_call(close((int)check_call(creat("event", 0600))));
	check_call(inotify_rm_watch(PLACE, 1));
}

/* The inode lives on, mapped; its name does not. */
static void put_inotify_gone(void)
{
	int fd = (int)check_call(open("gone", O_RDWR | O_CREAT, 0600));

	check_call(ftruncate(fd, 4096));
	put(inotify_init1(0));
	check_call(inotify_add_watch(PLACE, "gone", IN_CREATE));
	check_call(unlink("gone"));
	check(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
	check_call(close(fd));
}

static void put_pidfd_outside(void)
{
	put((int)syscall(SYS_pidfd_open, getppid(), 0));
}

static void put_owner_outside(void)
{
	put(eventfd(0, 0));
	check_call(fcntl(PLACE, F_SETOWN, getppid()));
}

static void put_io_uring(void)
{
	char parameters[120] = { 0 };

	put((int)syscall(SYS_io_uring_setup, 4, parameters));
}

static void put_userfaultfd(void)
{
	put((int)syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */));
}

static void put_secretmem(void)
{
	put((int)syscall(SYS_memfd_secret, 0));
}

static int inet_socket(int type, uint16_t port, bool listening)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = (int)check_call(socket(AF_INET, type, 0));

	check_call(bind(fd, (struct sockaddr *)&a, sizeof(a)));
	if (listening)
		check_call(listen(fd, 1));
	return fd;
}

static void put_tcp_unaccepted(void)
{
	int server = inet_socket(SOCK_STREAM, 0, true), client = inet_socket(SOCK_STREAM, 0, false);
	struct sockaddr_in a;
	socklen_t size = sizeof(a);

	check_call(getsockname(server, (struct sockaddr *)&a, &size));
	check_call(connect(client, (struct sockaddr *)&a, size));
	put(client);
}

static void put_tcp_urgent(void)
{
	int server = inet_socket(SOCK_STREAM, 0, true), client = inet_socket(SOCK_STREAM, 0, false), fd;
	struct sockaddr_in a;
	socklen_t size = sizeof(a);

	check_call(getsockname(server, (struct sockaddr *)&a, &size));
	check_call(connect(client, (struct sockaddr *)&a, size));
	fd = (int)check_call(accept(server, NULL, NULL));
	check_call(send(client, "!", 1, MSG_OOB));
	check_call(poll(&(struct pollfd){ .fd = fd, .events = POLLPRI }, 1, 5000));
	put(fd);
}

static void put_udp_tunnel(void)
{
	const int l2tp = UDP_ENCAP_L2TPINUDP;

	put(inet_socket(SOCK_DGRAM, 0, false));
	check_call(setsockopt(PLACE, IPPROTO_UDP, UDP_ENCAP, &l2tp, sizeof(l2tp)));
}

static void connect_udp(int to)
{
	struct sockaddr_in a;
	socklen_t size = sizeof(a);

	check_call(getsockname(to, (struct sockaddr *)&a, &size));
	put(inet_socket(SOCK_DGRAM, 0, false));
	check_call(connect(PLACE, (struct sockaddr *)&a, size));
}

/* Half a datagram is held back. */
static void put_udp_corked(void)
{
	connect_udp(inet_socket(SOCK_DGRAM, 0, false));
	check_call(send(PLACE, "half", 4, MSG_MORE));
}

/* Nobody is there any more to receive it. */
static void put_udp_error(void)
{
	int other = inet_socket(SOCK_DGRAM, 0, false);

	connect_udp(other);
	check_call(close(other));
	check_call(send(PLACE, "lost", 4, 0));
	check_call(poll(&(struct pollfd){ .fd = PLACE }, 1, 5000));
}

static void put_netlink_state(void)
{
	put(socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER));
}

static void put_netlink_unread(void)
{
	const struct nlmsghdr nothing = { .nlmsg_len = sizeof(nothing), .nlmsg_type = NLMSG_MIN_TYPE,
					  .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK };

	put(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	check_call(send(PLACE, &nothing, sizeof(nothing), 0));
}

static void put_mptcp(void)
{
	put(socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */));
}

static void put_vsock(void)
{
	put(socket(AF_VSOCK, SOCK_STREAM, 0));
}

/* True in a process that goes on by itself, outside the tree. */
static bool leave_tree(void)
{
	if (check_call(fork()) != 0)
		return false;
	if (fork() != 0)
		_exit(0);
	setsid();
	return true;
}

/* The server is outside the tree. */
static void put_unix_outside(void)
{
	int listening = unix_listening(SOCK_STREAM, "a socket", 1), told[2];

	check_call(pipe(told));
	if (leave_tree()) {
		int fd = accept(listening, NULL, NULL);

		close(listening);
		close(told[0]);
		close(told[1]);
		while (read(fd, told, sizeof(told)) > 0)
			;
		_exit(0);
	}
	put(unix_connected(SOCK_STREAM, "a socket"));
	check_call(close(listening));
	check_call(close(told[1]));
	check(read(told[0], told, 1) == 0);
	check_call(close(told[0]));
}

/* Nobody can see what it has sent. */
static void put_unix_waits(void)
{
	int listening = unix_listening(SOCK_STREAM, "a socket", 1);

	put(unix_connected(SOCK_STREAM, "a socket"));
	check_call(send(PLACE, "x", 1, 0));
	check_call(dup2(listening, PLACE - 1));
	check_call(close(listening));
}

static void put_unix_left(void)
{
	int client;

	put(unix_listening(SOCK_STREAM, "a socket", 1));
	client = unix_connected(SOCK_STREAM, "a socket");
	check_call(send(client, "x", 1, 0));
	check_call(close(client));
}

static void put_unix_urgent(void)
{
	int ends[2];

	check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	check(send(ends[1], "before", 6, 0) == 6);
	if (send(ends[1], "!", 1, MSG_OOB) < 0)
		exit(SKIP);
	check_call(dup2(ends[1], PLACE - 1));
	check_call(close(ends[1]));
	put(ends[0]);
}

static void put_unix_pidfd(void)
{
	int ends[2];

	check_call(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
	if (setsockopt(ends[0], SOL_SOCKET, 76 /* SO_PASSPIDFD */, &(int){ 1 }, sizeof(int)) < 0)
		exit(SKIP);
	check(send(ends[1], "who?", 4, 0) == 4);
	check_call(dup2(ends[1], PLACE - 1));
	check_call(close(ends[1]));
	put(ends[0]);
}

static void put_in_flight(int fd)
{
	int ends[2];
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { (char[]){ "x" }, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	check_call(sendmsg(ends[1], &m, 0));
	check_call(close(fd));
	put(ends[0]);
}

/* It watches what can only be made when there are processes. */
static void put_flying_epoll(void)
{
	int fd = (int)check_call(epoll_create1(0)), process = (int)check_call(syscall(SYS_pidfd_open, getpid(), 0));

	check_call(dup2(process, PLACE - 1));
	check_call(close(process));
	check_call(epoll_ctl(fd, EPOLL_CTL_ADD, PLACE - 1, &(struct epoll_event){ .events = EPOLLIN }));
	put_in_flight(fd);
}

static void put_flying_pidfd(void)
{
	put_in_flight((int)check_call(syscall(SYS_pidfd_open, getpid(), 0)));
}

static int terminal(int *ret_slave)
{
	int master = (int)check_call(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK));

	check_call(unlockpt(master));
	if (ret_slave)
		*ret_slave = (int)check_call(open(ptsname(master), O_RDWR | O_NOCTTY));
	return master;
}

static void put_terminal_line(void)
{
	int slave, master = terminal(&slave), n_null = 27;

	if (ioctl(slave, TIOCSETD, &n_null) < 0)
		exit(SKIP);
	put(master);
}

static void put_terminal_packet(void)
{
	int slave;

	put(terminal(&slave));
	check_call(ioctl(PLACE, TIOCPKT, &(int){ 1 }));
	check_call(tcflush(slave, TCIFLUSH));
}

/* What is typed is echoed, whether anybody has opened the other side or not. */
static void put_terminal_unopened(void)
{
	struct pollfd p;

	put(terminal(NULL));
	check(write(PLACE, "x", 1) == 1);
	p = (struct pollfd){ .fd = PLACE, .events = POLLIN };
	check(poll(&p, 1, 5000) == 1);
}

/* A notification carries a value that the kernel shows to nobody. */
static void put_message_queue(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 };
	mqd_t queue = mq_open("/torpor-test", O_RDWR | O_CREAT, 0600, NULL);

	mq_unlink("/torpor-test");
	put((int)queue);
	check_call(mq_notify(42, &event)); /* the first close would end it */
}

/* A handle of a socket leads to whatever is bound there. */
static void put_gone_handle(void)
{
	check_call(mknod("gone", S_IFSOCK | 0600, 0));
	put(open("gone", O_PATH));
	check_call(unlink("gone"));
}

/* Its only reader is outside the tree, and nobody can open it any more. */
static void put_gone_fifo(void)
{
	int fd, told[2];

	check_call(mkfifo("gone", 0600));
	check_call(pipe(told));
	if (leave_tree()) {
		fd = open("gone", O_RDONLY);
		close(told[0]);
		close(told[1]);
		while (read(fd, &(char){ 0 }, 1) > 0)
			;
		_exit(0);
	}
	put(open("gone", O_WRONLY));
	check_call(unlink("gone"));
	check_call(close(told[1]));
	check(read(told[0], told, 1) == 0);
	check_call(close(told[0]));
}

/* Its other name is where nobody looks. */
static void put_lost_name(void)
{
	char path[64];

	check_call(mkdir("far", 0700));
	put(open("gone", O_RDWR | O_CREAT, 0600));
	for (int i = 0; i < 40; i++) {
		snprintf(path, sizeof(path), "far/%d", i);
		check_call(mkdir(path, 0700));
	}
	check_call(link("gone", "far/39/name"));
	check_call(chmod("far/39", 0)); /* not even by looking */
	check_call(unlink("gone"));
}

/* As if it had been opened by somebody who may enter that folder. */
static void put_hidden(void)
{
	check_call(mkdir("locked", 0700));
	put(open("locked/file", O_RDWR | O_CREAT, 0600));
	check_call(chmod("locked", 0));
}

static void put_fanotify_events(void)
{
	put(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY));
	check_call(fanotify_mark(PLACE, FAN_MARK_ADD, FAN_ATTRIB | FAN_ONDIR, AT_FDCWD, "."));
	check_call(chmod(".", 0700));
}

/* Only root can. */
static void put_fanotify_mount(void)
{
	put(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY));
	check_call(fanotify_mark(PLACE, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, AT_FDCWD, "/proc"));
}

static void put_foreign_proc(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/stat", getppid());
	put(open(path, O_RDONLY));
}

/* What it watches is only to be found in another process. */
static void put_epoll(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int ends[2], fd = (int)check_call(eventfd(0, 0));

	check_call(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	put(epoll_create1(0));
	check_call(epoll_ctl(PLACE, EPOLL_CTL_ADD, fd, &event));
	if (check_call(fork()) == 0) {
		close(PLACE);
		close(ends[1]);
		if (fork() != 0)
			_exit(0);
		setsid();
		check_call(read(ends[0], &(char){ 0 }, 1)); /* until the other end is closed */
		_exit(0);
	}
	check_call(close(fd));
	check_call(close(ends[0]));
	check_call(usleep(50000));
	put(ends[1]); /* would be refused as well */
}

static void put_outside_pipe(void)
{
	int ends[2];

	check_call(pipe(ends));
	if (check_call(fork()) == 0) {
		close(ends[1]);
		if (fork() != 0)
			_exit(0);
		setsid();
		check_call(read(ends[0], &(char){ 0 }, 1));
		_exit(0);
	}
	check_call(close(ends[0]));
	check_call(usleep(50000));
	put(ends[1]);
}

/* Somebody waits for it to be given up. */
static void put_lease_breaking(void)
{
	signal(SIGIO, SIG_IGN);
	put(open("leased", O_RDWR | O_CREAT, 0600));
	check_call(fcntl(PLACE, F_SETLEASE, F_WRLCK));
	check(open("leased", O_RDWR | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
}

static const struct {
	const char *name;
	void (*put)(void);
} things[] = {
	{ "timerfd_alarm", put_timerfd_alarm }, { "inotify_events", put_inotify_events },
	{ "inotify_gone", put_inotify_gone }, { "pidfd_outside", put_pidfd_outside },
	{ "owner_outside", put_owner_outside },
	{ "io_uring", put_io_uring }, { "userfaultfd", put_userfaultfd }, { "secretmem", put_secretmem },
	{ "tcp_unaccepted", put_tcp_unaccepted }, { "tcp_urgent", put_tcp_urgent },
	{ "udp_tunnel", put_udp_tunnel }, { "udp_corked", put_udp_corked }, { "udp_error", put_udp_error },
	{ "netlink_state", put_netlink_state }, { "netlink_unread", put_netlink_unread }, { "mptcp", put_mptcp },
	{ "vsock", put_vsock }, { "unix_outside", put_unix_outside }, { "unix_waits", put_unix_waits },
	{ "unix_left", put_unix_left }, { "unix_urgent", put_unix_urgent },
	{ "unix_pidfd", put_unix_pidfd }, { "flying_epoll", put_flying_epoll }, { "flying_pidfd", put_flying_pidfd },
	{ "fanotify_events", put_fanotify_events }, { "fanotify_mount", put_fanotify_mount },
	{ "terminal_line", put_terminal_line }, { "terminal_packet", put_terminal_packet },
	{ "terminal_unopened", put_terminal_unopened },
	{ "message_queue", put_message_queue }, { "lost_name", put_lost_name }, { "hidden", put_hidden },
	{ "gone_handle", put_gone_handle }, { "gone_fifo", put_gone_fifo }, { "foreign_proc", put_foreign_proc },
	{ "epoll", put_epoll }, { "outside_pipe", put_outside_pipe }, { "lease_breaking", put_lease_breaking },
};

static struct stat before;

void setup(const char *argument)
{
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; argument && i < sizeof(things) / sizeof(*things); i++) {
		if (strcmp(things[i].name, argument) == 0) {
			things[i].put();
			check_call(fstat(PLACE, &before));
			return;
		}
	}
	check(!"a known argument");
}

/* It is still there; nothing else was opened, or left open. */
void verify(void)
{
	struct stat now;
	struct itimerspec t;

	check_call(fstat(PLACE, &now));
	check(now.st_dev == before.st_dev && now.st_ino == before.st_ino);
	check(fcntl(PLACE + 1, F_GETFD) == -1 && errno == EBADF);
	if (timerfd_gettime(PLACE, &t) == 0)
		check(t.it_value.tv_sec > 3000);
}
