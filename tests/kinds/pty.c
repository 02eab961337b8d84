/* SPDX-License-Identifier: Apache-2.0 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

enum { LARGE = 9000 };

struct pair {
	int master, slave;
};

static struct pair typed, raw, large, packet, exclusive, by_char, by_call, modes;
static int watcher, second_slave, same_slave, peer_slave, sticky, sticky_too, unopened, closed, hung_up,
	hung_up_too;

static void make(struct pair *p, int flags)
{
	p->master = (int)check_call(open("/dev/ptmx", O_RDWR | O_NOCTTY | flags));
	check_call(unlockpt(p->master));
	p->slave = (int)check_call(open(ptsname(p->master), O_RDWR | O_NOCTTY | flags));
}

static void set_modes(int fd, tcflag_t lflag_off, tcflag_t oflag_off)
{
	struct termios t;

	check_call(tcgetattr(fd, &t));
	t.c_lflag &= ~lflag_off;
	t.c_oflag &= ~oflag_off;
	check_call(tcsetattr(fd, TCSANOW, &t));
}

/* The kernel passes on in its own time, and piece by piece, what was written. */
static void check_arrives(int fd, const char *text)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char piece[64];

	for (size_t done = 0, n = strlen(text); done < n;) {
		size_t room = n - done < sizeof(piece) ? n - done : sizeof(piece);

		check(poll(&p, 1, 5000) == 1);
		room = (size_t)check_call(read(fd, piece, room));
		check(memcmp(piece, text + done, room) == 0);
		done += room;
	}
}

static void check_ready(int fd, short events, bool expected)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (int i = 0; i < 2000; i++) {
		check_call(poll(&p, 1, 0));
		if (!!(p.revents & events) == expected)
			return;
		usleep(1000);
	}
	check(!"as ready as expected");
}

/* ---- what waits ---- */

static void fill_typed(void)
{
	check_write(typed.master, "a line\n\n\004half a line\004\026\003 quoted \026\026\n not ended");
	check_ready(typed.slave, POLLIN, true);
	check_write(typed.slave, "some output\n");
}

static void verify_typed(void)
{
	char text[64];

	struct epoll_event event;

	check(epoll_wait(watcher, &event, 1, 5000) == 1 && event.data.fd == typed.master);
	check_read(typed.slave, "a line\n");
	check(read(typed.slave, text, sizeof(text)) == 1 && text[0] == '\n');
	check(read(typed.slave, text, sizeof(text)) == 0);
	check(read(typed.slave, text, sizeof(text)) == 11 && memcmp(text, "half a line", 11) == 0);
	check(read(typed.slave, text, sizeof(text)) == 11 && memcmp(text, "\003 quoted \026\n", 11) == 0);
	check_empty(typed.slave);
	check_write(typed.master, " but now\n");
	check_arrives(second_slave, " not ended but now\n");
	check_arrives(typed.master, "some output\r\n");
	check_empty(typed.master);
	check(epoll_wait(watcher, &event, 1, 0) == 0);
	fill_typed();
}

static void fill_raw(void)
{
	check(write(raw.master, "\000\003\004\r\n\021\023\377", 8) == 8);
	check_ready(raw.slave, POLLIN, true);
	check_write(raw.slave, "\033[2J\n");
}

static void verify_raw(void)
{
	check(check_call(fcntl(raw.slave, F_GETFL)) & O_NONBLOCK);
	char text[64];

	check(read(raw.slave, text, sizeof(text)) == 8 &&
	      memcmp(text, "\000\003\004\r\n\021\023\377", 8) == 0);
	check_empty(raw.slave);
	check_arrives(raw.master, "\033[2J\n");
	check_empty(raw.master);
	fill_raw();
}

static void fill_large(void)
{
	char *content = malloc(LARGE);

	for (size_t i = 0; i < LARGE; i++)
		content[i] = (char)(i * 31 + i / 1000);
	for (size_t i = 0; i < LARGE; i += 500)
		check(write(large.slave, content + i, 500) == 500);
	free(content);
}

static void verify_large(void)
{
	char text[LARGE];
	size_t n = 0;

	for (ssize_t got; n < LARGE; n += (size_t)got) {
		check_ready(large.master, POLLIN, true);
		got = check_call(read(large.master, text + n, LARGE - n));
	}
	for (size_t i = 0; i < LARGE; i++)
		check(text[i] == (char)(i * 31 + i / 1000));
	check_empty(large.master);
	fill_large();
}

/* ---- modes and flags ---- */

static void setup_modes(void)
{
	const struct winsize size = { 33, 101, 808, 660 };
	struct termios t;

	make(&modes, 0);
	second_slave =
		(int)check_call(open(ptsname(typed.master), O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
	same_slave = (int)check_call(dup(modes.slave));
	peer_slave = (int)check_call(ioctl(modes.master, TIOCGPTPEER, O_WRONLY | O_NOCTTY));
	sticky = (int)check_call(ioctl(modes.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
	sticky_too = (int)check_call(dup(sticky));
	check_call(tcgetattr(modes.slave, &t));
	t.c_iflag |= IXOFF | IUTF8;
	t.c_lflag |= TOSTOP;
	t.c_cc[VINTR] = 'x';
	cfsetspeed(&t, B19200);
	check_call(tcsetattr(modes.slave, TCSANOW, &t));
	check_call(ioctl(modes.slave, TIOCSWINSZ, &size));
	check_call(fchmod(modes.slave, 0642));
}

static void verify_modes(void)
{
	struct winsize size;
	struct termios t;
	struct stat st, by_name;

	check_call(tcgetattr(modes.slave, &t));
	check((t.c_iflag & (IXOFF | IUTF8)) == (IXOFF | IUTF8) && (t.c_lflag & TOSTOP) &&
	      t.c_cc[VINTR] == 'x');
	check(cfgetospeed(&t) == B19200);
	check_call(ioctl(modes.master, TIOCGWINSZ, &size));
	check(size.ws_row == 33 && size.ws_col == 101 && size.ws_xpixel == 808 && size.ws_ypixel == 660);
	check_same_description(modes.slave, same_slave, true);
	check_same_description(modes.slave, peer_slave, false);
	check_flags(peer_slave, O_ACCMODE | O_NONBLOCK, O_WRONLY);
	check_flags(second_slave, O_ACCMODE | O_NONBLOCK, O_RDWR | O_NONBLOCK);
	check_cloexec(second_slave, true);
	check_cloexec(modes.slave, false);
	check_cloexec(peer_slave, false);
	check_cloexec(sticky, true);
	check_cloexec(sticky_too, false);
	check_same_description(sticky, sticky_too, true);
	check_call(fstat(modes.slave, &st));
	check_call(stat(ptsname(modes.master), &by_name));
	check(st.st_ino == by_name.st_ino && (st.st_mode & 0777) == 0642 && st.st_uid == getuid());
	check(strcmp(ttyname(modes.slave), ptsname(modes.master)) == 0);
	check(strcmp(ttyname(peer_slave), ptsname(modes.master)) == 0);
}

/* In packet mode each read tells first what it is about. */
static void verify_packet(void)
{
	int on = 0;

	check_call(ioctl(packet.master, TIOCGPKT, &on));
	check(on == 1);
	check_ready(packet.master, POLLIN, true);
	check(read(packet.master, (char[8]){ 0 }, 8) == 4); /* 0, and the three bytes that had been written */
	check_ready(packet.master, POLLPRI, false);
	check_call(tcflush(packet.slave, TCIFLUSH));
	check_ready(packet.master, POLLPRI, true);
	check_arrives(packet.master, "\001");
	check_write(packet.slave, "abc");
}

static void verify_exclusive(void)
{
	int is = 0, locked = 0;

	check_call(ioctl(exclusive.slave, TIOCGEXCL, &is));
	check(is == 1);
	check(open(ptsname(exclusive.master), O_RDWR | O_NOCTTY) == -1 && errno == EBUSY);
	check_call(ioctl(unopened, TIOCGPTLCK, &locked));
	check(locked == 1);
	check(open(ptsname(unopened), O_RDWR | O_NOCTTY) == -1 && errno == EIO);
	check_ready(unopened, POLLHUP, false);
	check_empty(unopened);
}

static void verify_stopped(void)
{
	check_ready(by_char.slave, POLLOUT, false);
	check(write(by_char.slave, "x", 1) == -1 && errno == EAGAIN);
	check_write(by_char.master, "\021");
	check_ready(by_char.slave, POLLOUT, true);
	check_write(by_char.slave, "x");
	check_arrives(by_char.master, "x");
	check_write(by_char.master, "\023");
	check_ready(by_char.slave, POLLOUT, false);

	check(write(by_call.slave, "x", 1) == -1 && errno == EAGAIN);
	check_call(tcflow(by_call.slave, TCOON));
	check_write(by_call.slave, "y");
	check_arrives(by_call.master, "y");
	check_call(tcflow(by_call.slave, TCOOFF));
}

/* ---- one side closed ---- */

static void setup_closed(void)
{
	struct pair p;

	make(&p, O_NONBLOCK);
	set_modes(p.slave, ICANON, 0);
	check_write(p.slave, "last words");
	closed = p.master;
	check_call(close(p.slave));
	make(&p, 0);
	hung_up = p.slave;
	hung_up_too = (int)check_call(open(ptsname(p.master), O_RDONLY | O_NOCTTY | O_CLOEXEC));
	check_call(close(p.master));
}

static void verify_closed(void)
{
	static bool words_read;
	char text[16];

	check_ready(closed, POLLHUP, true);
	if (!words_read)
		check_arrives(closed, "last words");
	words_read = true;
	check(read(closed, text, sizeof(text)) == -1 && errno == EIO);
	check(read(hung_up, text, sizeof(text)) == 0);
	check(read(hung_up_too, text, sizeof(text)) == 0);
	check(write(hung_up, "x", 1) == -1 && errno == EIO);
	check(tcgetpgrp(hung_up) == -1 && errno == EIO);
	check_flags(hung_up_too, O_ACCMODE, O_RDONLY);
	check_same_description(hung_up, hung_up_too, false);
}

/* ---- controlling terminals: the second task and another lead sessions, each with its own ---- */

static struct pair controlling, other;
static int tty; /* as /dev/tty */
static struct sessions {
	pid_t job, other; /* the foreground job, and the leader of the other session */
	pid_t without;    /* in the session, but without its terminal */
	_Atomic unsigned ready, interrupts;
} *sessions;

static void job_interrupted(int signo)
{
	(void)signo;
	sessions->interrupts++;
}

static _Noreturn void job_main(void)
{
	sigset_t none;

	signal(SIGINT, job_interrupted);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	sessions->ready = 1;
	for (;;)
		pause();
}

static _Noreturn void without_main(void)
{
	ioctl(tty, TIOCNOTTY);
	for (;;)
		pause();
}

static _Noreturn void other_main(void)
{
	setsid();
	ioctl(other.slave, TIOCSCTTY, 0);
	for (;;)
		pause();
}

static void second_leads(void)
{
	pid_t pid;

	check_call(setsid());
	check_call(ioctl(controlling.slave, TIOCSCTTY, 0));
	tty = (int)check_call(open("/dev/tty", O_RDWR | O_CLOEXEC));
	signal(SIGTTOU, SIG_IGN);
	pid = (pid_t)check_call(fork());
	if (pid == 0)
		job_main();
	sessions->job = pid;
	while (!sessions->ready)
		usleep(500);
	check_call(setpgid(sessions->job, sessions->job));
	check_call(tcsetpgrp(tty, sessions->job));
	pid = (pid_t)check_call(fork());
	if (pid == 0)
		other_main();
	sessions->other = pid;
	pid = (pid_t)check_call(fork());
	if (pid == 0)
		without_main();
	sessions->without = pid;
}

/* Fields of /proc/PID/stat behind the name: state ppid pgrp session tty_nr tpgid */
static void stat_terminal(pid_t pid, unsigned *ret_tty, int *ret_group)
{
	char path[64], text[512] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "r");
	check(file && fgets(text, sizeof(text), file) && strrchr(text, ')'));
	fclose(file);
	check(sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %u %d", ret_tty, ret_group) == 2);
}

static void check_terminal(pid_t pid, int master, pid_t foreground)
{
	unsigned number, index;
	int group;

	check_call(ioctl(master, TIOCGPTN, &index));
	for (int i = 0; i < 2000; i++) { /* until the new session has its terminal */
		stat_terminal(pid, &number, &group);
		if (number == makedev(136, index) && group == foreground)
			return;
		usleep(1000);
	}
	check(number == makedev(136, index));
	check(group == foreground);
}

static void check_no_terminal(pid_t pid)
{
	unsigned number;
	int group;

	for (int i = 0; i < 2000; i++) { /* until it has given it up */
		stat_terminal(pid, &number, &group);
		if (!number)
			return;
		usleep(1000);
	}
	check(!"without a terminal");
}

static void second_verifies(void)
{
	struct stat st;

	check(tcgetpgrp(tty) == sessions->job && tcgetsid(controlling.slave) == getpid());
	check_call(fstat(tty, &st));
	check(st.st_rdev == makedev(5, 0));
	check_cloexec(tty, true);
	check_write(tty, "by /dev/tty ");
	check(open("/dev/tty", O_RDWR | O_NOCTTY) == tty + 1 && close(tty + 1) == 0);
	check_write(controlling.slave, "by name");
}

static void verify_sessions(void)
{
	unsigned interrupts = sessions->interrupts;

	check_terminal(second_task_pid(), controlling.master, sessions->job);
	check_terminal(sessions->job, controlling.master, sessions->job);
	check_terminal(sessions->other, other.master, sessions->other);
	check_no_terminal(sessions->without);
	second_task_run(second_verifies);
	check_arrives(controlling.master, "by /dev/tty by name");
	check_write(controlling.master, "\003");
	for (int i = 0; i < 2000 && sessions->interrupts == interrupts; i++)
		usleep(1000);
	check(sessions->interrupts == interrupts + 1);
	check_arrives(controlling.master, "^C");
}

/* ---- */

void setup(const char *argument)
{
	(void)argument;
	make(&typed, O_NONBLOCK);
	set_modes(typed.slave, ECHO, 0);
	watcher = (int)check_call(epoll_create1(0));
	check_call(epoll_ctl(watcher, EPOLL_CTL_ADD, typed.master,
			     &(struct epoll_event){ .events = EPOLLIN, .data.fd = typed.master }));
	setup_modes();
	make(&raw, O_NONBLOCK);
	set_modes(raw.slave, ICANON | ECHO | ISIG | IEXTEN, OPOST);
	struct termios t;
	check_call(tcgetattr(raw.slave, &t));
	t.c_iflag = 0;
	check_call(tcsetattr(raw.slave, TCSANOW, &t));
	make(&large, O_NONBLOCK);
	set_modes(large.slave, 0, OPOST);
	fill_typed();
	fill_raw();
	fill_large();
	make(&packet, O_NONBLOCK);
	check_call(ioctl(packet.master, TIOCPKT, &(int){ 1 }));
	check_write(packet.slave, "abc");
	make(&exclusive, 0);
	check_call(ioctl(exclusive.slave, TIOCEXCL));
	unopened = (int)check_call(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK));
	make(&by_char, O_NONBLOCK);
	check_write(by_char.master, "\023");
	check_ready(by_char.slave, POLLOUT, false);
	make(&by_call, O_NONBLOCK);
	check_call(tcflow(by_call.slave, TCOOFF));
	setup_closed();
	make(&controlling, 0);
	make(&other, 0);
	sessions = mmap(NULL, sizeof(*sessions), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	second_task_start();
	second_task_run(second_leads);
	check_terminal(sessions->other, other.master, sessions->other);
	check_no_terminal(sessions->without);
}

void verify(void)
{
	verify_modes();
	verify_typed();
	verify_raw();
	verify_large();
	verify_packet();
	verify_exclusive();
	verify_stopped();
	verify_closed();
	verify_sessions();
}
