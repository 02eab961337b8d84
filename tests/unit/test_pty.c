/* SPDX-License-Identifier: Apache-2.0 */

/* What waits in a terminal: looking at it changes nothing, and another terminal can be given the same. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "kinds/pty/queue.h"
#include "sys/tty.h"
#include "unit.h"

enum { ROUNDS = 150, INPUT_MAX = 3000, OUTPUT_MAX = 20000, PIECE_MAX = 500 };

struct pair {
	int master, slave;
};

static bool pair_open(struct pair *p)
{
	p->master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (p->master < 0 || ioctl(p->master, TIOCSPTLCK, &(int){ 0 }) < 0)
		return false;
	p->slave = ioctl(p->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK);
	return p->slave >= 0;
}

static void pair_close(struct pair *p)
{
	close(p->slave);
	close(p->master);
}

static bool queue_same(const struct pty_queue *a, const struct pty_queue *b)
{
	return a->stopped == b->stopped && a->n_lines == b->n_lines && a->n_input == b->n_input &&
	       a->n_output == b->n_output && memcmp(a->input, b->input, a->n_input) == 0 &&
	       memcmp(a->output, b->output, a->n_output) == 0 &&
	       memcmp(a->line_ends, b->line_ends, a->n_lines * sizeof(*a->line_ends)) == 0;
}

static unsigned below(unsigned n)
{
	return (unsigned)rand() % n;
}

static void random_modes(int slave, struct termios *t)
{
	tcgetattr(slave, t);
	if (!below(3))
		cfmakeraw(t);
	if (below(2))
		t->c_lflag &= ~(tcflag_t)ECHO;
	if (below(2))
		t->c_iflag &= ~(tcflag_t)IXON;
	t->c_lflag &= ~(tcflag_t)ISIG;
	tcsetattr(slave, TCSANOW, t);
}

/* Printable, or something that is special to a terminal. */
static uint8_t random_key(void)
{
	static const uint8_t special[] = { '\n', '\r', 04, 022, 026, 0177, 0, 0377 };

	return below(6) ? (uint8_t)(' ' + below(95)) : special[below(sizeof(special))];
}

static void random_content(const struct pair *p)
{
	uint8_t keys[INPUT_MAX], piece[PIECE_MAX];
	unsigned n = below(3) ? below(below(4) ? 40 : INPUT_MAX) : 0,
		 output = below(3) ? below(OUTPUT_MAX) : 0;

	for (unsigned i = 0; i < n; i++)
		keys[i] = random_key();
	if (n)
		(void)!write(p->master, keys, n);
	for (unsigned done = 0; done < output;) {
		ssize_t got;

		for (unsigned i = 0; i < PIECE_MAX; i++)
			piece[i] = (uint8_t)rand();
		got = write(p->slave, piece, 1 + below(PIECE_MAX));
		if (got <= 0)
			break;
		done += (unsigned)got;
	}
	if (!below(4))
		ioctl(p->slave, TCXONC, TCOOFF);
	else if (!below(4))
		(void)!write(p->master, "\023", 1);
}

/* What waits; where plainly nothing does, an empty queue. */
static struct pty_queue *look(int master, int slave)
{
	struct pty_queue *q;
	struct err e = ERR_INIT;

	if (pty_queue_peek(master, slave, &q, &e) < 0)
		return NULL;
	return q ? q : pty_queue_new();
}

static void round_trip(void)
{
	cleanup_pty_queue struct pty_queue *first = NULL, *again = NULL, *other = NULL;
	struct pair p, q;
	struct termios modes = { 0 }, after = { 0 };
	struct sys_termios2 exact;
	struct err e = ERR_INIT;

	UNIT_CHECK(pair_open(&p));
	random_modes(p.slave, &modes);
	random_content(&p);
	first = look(p.master, p.slave);
	again = look(p.master, p.slave);
	UNIT_CHECK(first && again && queue_same(first, again));
	tcgetattr(p.slave, &after);
	UNIT_CHECK(memcmp(&modes, &after, sizeof(modes)) == 0);
	UNIT_CHECK_EQ(sys_tty_modes(p.master, &exact), 0);
	UNIT_CHECK(pair_open(&q));
	UNIT_CHECK_EQ(pty_queue_put(q.master, q.slave, &exact, first, &e), 0);
	other = look(q.master, q.slave);
	UNIT_CHECK(other && queue_same(first, other));
	pair_close(&p);
	pair_close(&q);
}

static void random_queues(void)
{
	srand(1);
	for (int i = 0; i < ROUNDS && !unit_failure[0]; i++)
		round_trip();
}

/* The master's flags, packet mode and exclusive use are as before; a closed slave is closed. */
static void leaves_no_trace(void)
{
	struct pollfd poll_master = { .events = POLLIN };
	cleanup_pty_queue struct pty_queue *open_slave = NULL, *closed = NULL;
	struct pair p;

	UNIT_CHECK(pair_open(&p));
	UNIT_CHECK_EQ(fcntl(p.master, F_SETFL, 0), 0);
	UNIT_CHECK_EQ(ioctl(p.master, TIOCPKT, &(int){ 1 }), 0);
	UNIT_CHECK_EQ(ioctl(p.slave, TIOCEXCL), 0);
	UNIT_CHECK_EQ(write(p.slave, "x", 1), 1);
	open_slave = look(p.master, p.slave);
	UNIT_CHECK(open_slave);
	UNIT_CHECK_EQ(open_slave->n_output, 1);
	UNIT_CHECK_EQ(fcntl(p.master, F_GETFL) & O_NONBLOCK, 0);
	UNIT_CHECK_EQ(sys_tty_number(p.master, TIOCGPKT), 1);
	UNIT_CHECK_EQ(sys_tty_number(p.slave, TIOCGEXCL), 1);
	UNIT_CHECK_EQ(ioctl(p.slave, TIOCNXCL), 0);
	close(p.slave);
	closed = look(p.master, -1);
	UNIT_CHECK(closed);
	UNIT_CHECK_EQ(closed->n_output, 1);
	poll_master.fd = p.master;
	UNIT_CHECK_EQ(poll(&poll_master, 1, 0), 1);
	UNIT_CHECK_EQ(poll_master.revents, POLLIN | POLLHUP);
	close(p.master);
}

UNIT_MAIN(UNIT_CASE(random_queues), UNIT_CASE(leaves_no_trace))
