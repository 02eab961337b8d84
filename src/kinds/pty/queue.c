/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation: the kernel shows how much waits in a terminal, but yields
 * it only to a read(2) that takes it away; a line that was not ended yet, in
 * canonical mode, it does not even count. So what waits is taken and put back,
 * while the programs stand still, by a process of its own: a torpor that is
 * killed takes nobody's input along.
 *
 * Input is put back as somebody would type it: through the master, with every
 * special character switched off but those that quote (^V) and end a line
 * without a newline (^D). The kernel processes it in its own time, under the
 * modes of that moment; the echo tells when it is through. The echo is then
 * thrown away.
 *
 * No terminal of a full-screen program or of a shell at its prompt (they read
 * every key at once) needs any of this: where plainly nothing waits, nothing is
 * touched.
 */

#include "kinds/pty/queue.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include "sys/tty.h"
#include "util/fd.h"
#include "util/privilege.h"
#include "util/survivor.h"

enum {
	PTY_END = 04,       /* ^D */
	PTY_QUOTE = 026,    /* ^V */
	PTY_START = 021,    /* ^Q */
	PTY_STOP = 023,     /* ^S */
	PTY_PATIENCE = 500, /* ms, for the kernel to process what was written */
	PTY_BUFFER = 4095,  /* characters that a terminal takes in before somebody reads */
	PTY_PORTION = 1024, /* two of them fill a buffer of the kernel exactly: nothing holds more in all */
};

/* Our hold on a pseudo-terminal; both ends do not block. */
struct pty_ends {
	int master, slave;
	struct sys_termios2 modes; /* as the program has them */
};

/* EXTPROC (somebody else edits the line) makes a terminal behave as if it were not canonical. */
static bool pty_is_canonical(const struct sys_termios2 *t)
{
	return (t->lflag & (ICANON | EXTPROC)) == ICANON;
}

/*
 * Modes under which a character is only a character. IXON stays: without it the
 * kernel would let stopped output go on. What is put in is echoed once, as it is.
 */
static struct sys_termios2 pty_plain_modes(const struct sys_termios2 *own, bool canonical)
{
	struct sys_termios2 t = *own;

	t.iflag &= IXON | IUTF8;
	t.oflag &= ~(uint32_t)OPOST;
	t.lflag = (t.lflag & EXTPROC) | ECHO | IEXTEN | (canonical ? ICANON : 0);
	memset(t.cc, 0, sizeof(t.cc));
	if (canonical) {
		t.cc[VEOF] = PTY_END;
		t.cc[VLNEXT] = PTY_QUOTE;
	} else {
		t.cc[VMIN] = 1;
	}
	return t;
}

static int pty_set_modes(const struct pty_ends *p, const struct sys_termios2 *t, struct err *e)
{
	int r = sys_tty_set_modes(p->master, t);

	return r < 0 ? err_sys(e, r, "setting terminal modes") : 0;
}

/* poll(2) also waits for what the kernel has not yet passed from one end to the other. */
static bool pty_is_ready(int fd, short events, int ms)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, ms) > 0 && (p.revents & events);
}

/* ---- take ---- */

/* Read until nothing is left. */
static int pty_read_all(int fd, uint8_t *buf, size_t *n, struct err *e)
{
	ssize_t got;

	while ((got = read(fd, buf + *n, PTY_QUEUE_MAX - *n)) > 0)
		*n += (size_t)got;
	if (*n == PTY_QUEUE_MAX)
		return err_set(e, ERR_SYSTEM, 0, "more waits in a terminal than the kernel should hold");
	return got < 0 && errno != EAGAIN ? err_sys(e, errno, "reading from a terminal") : 0;
}

/* One read yields one line; a line of no characters is an end of file that was typed. */
static int pty_take_lines(const struct pty_ends *p, struct pty_queue *q, struct err *e)
{
	while (pty_is_ready(p->slave, POLLIN, 0)) {
		ssize_t got = read(p->slave, q->input + q->n_input, PTY_QUEUE_MAX - q->n_input);

		if (got < 0)
			return errno == EAGAIN ? 0 : err_sys(e, errno, "reading a line from a terminal");
		if (q->n_lines == PTY_LINES_MAX || q->n_input + (size_t)got == PTY_QUEUE_MAX)
			return err_set(e, ERR_SYSTEM, 0,
				       "more waits in a terminal than the kernel should hold");
		q->n_input += (size_t)got;
		q->line_ends[q->n_lines++] = (uint32_t)q->n_input;
	}
	return 0;
}

static int pty_take_input(const struct pty_ends *p, struct pty_queue *q, struct err *e)
{
	if (pty_is_canonical(&p->modes)) {
		struct sys_termios2 raw = p->modes;

		if (pty_take_lines(p, q, e) < 0)
			return -1;
		raw.lflag &= ~(uint32_t)ICANON; /* a line without its end is there for the taking */
		if (pty_set_modes(p, &raw, e) < 0)
			return -1;
	}
	return pty_read_all(p->slave, q->input, &q->n_input, e);
}

/*
 * Its output does not go on although there is room. Who stopped it: would the
 * character let it go on? It has been processed when the next one has arrived.
 */
static int pty_take_stop(const struct pty_ends *p, struct pty_queue *q, struct err *e)
{
	struct sys_termios2 plain = pty_plain_modes(&p->modes, false);
	const char keys[] = { PTY_START, 'x' };
	char arrived[sizeof(keys)];

	if (pty_is_ready(p->slave, POLLOUT, 0))
		return 0;
	plain.lflag &= ~(uint32_t)ECHO;
	plain.cc[VSTART] = PTY_START;
	plain.cc[VSTOP] = PTY_STOP;
	if (pty_set_modes(p, &plain, e) < 0)
		return -1;
	if (write(p->master, keys, sizeof(keys)) != sizeof(keys))
		return err_sys(e, errno, "writing to a terminal");
	if (!pty_is_ready(p->slave, POLLIN, PTY_PATIENCE) || read(p->slave, arrived, sizeof(arrived)) < 0)
		return err_set(e, ERR_SYSTEM, 0, "what is typed into a terminal does not arrive");
	q->stopped = pty_is_ready(p->slave, POLLOUT, 0) ? PTY_STOPPED_BY_CHARACTER : PTY_STOPPED_BY_CALL;
	/* What is put back needs output that goes on. */
	if (ioctl(p->slave, TCXONC, TCOON) < 0)
		return err_sys(e, errno, "letting the output of a terminal go on");
	return 0;
}

static int pty_take(const struct pty_ends *p, struct pty_queue *q, struct err *e)
{
	if (pty_take_input(p, q, e) < 0 || pty_read_all(p->master, q->output, &q->n_output, e) < 0 ||
	    pty_take_stop(p, q, e) < 0)
		return -1;
	/* Echoes that were held up come with the next write, even of nothing. */
	if (write(p->slave, "", 0) < 0)
		return err_sys(e, errno, "writing to a terminal");
	return pty_read_all(p->master, q->output, &q->n_output, e);
}

/* ---- put ---- */

/* `other` is where it arrives: looking there makes the kernel pass on what it holds, and makes room. */
static int pty_write_all(int fd, int other, const uint8_t *data, size_t size, struct err *e)
{
	size_t done = 0;

	for (int idle = 0; done < size && idle < PTY_PATIENCE;) {
		ssize_t n = write(fd, data + done, size - done < PTY_PORTION ? size - done : PTY_PORTION);

		if (n < 0 && errno != EAGAIN)
			return err_sys(e, errno, "writing to a terminal");
		done += n > 0 ? (size_t)n : 0;
		idle = n > 0 ? 0 : idle + 1;
		if (n <= 0) {
			pty_is_ready(other, POLLIN, 0);
			usleep(1000);
		}
	}
	if (done < size)
		return err_set(e, ERR_SYSTEM, 0, "a terminal cannot hold the %zu bytes it held", size);
	return 0;
}

/* One line as somebody would type it, or a line without its end. Returns the number of keys. */
static size_t pty_type(uint8_t *keys, const uint8_t *line, size_t size, bool whole)
{
	bool newline = whole && size && line[size - 1] == '\n';
	size_t n = 0;

	for (size_t i = 0; i < size - newline; i++) {
		if (line[i] == PTY_END || line[i] == PTY_QUOTE || line[i] == '\n')
			keys[n++] = PTY_QUOTE;
		keys[n++] = line[i];
	}
	if (whole)
		keys[n++] = newline ? '\n' : PTY_END;
	return n;
}

/* All that was read from it is echoed, as far as the terminal takes it in. */
static int pty_drop_echo(const struct pty_ends *p, size_t n, struct err *e)
{
	size_t expected = n < PTY_BUFFER ? n : PTY_BUFFER;
	uint8_t drop[4096];

	while (expected && pty_is_ready(p->master, POLLIN, PTY_PATIENCE)) {
		ssize_t got = read(p->master, drop, expected < sizeof(drop) ? expected : sizeof(drop));

		if (got <= 0)
			return err_sys(e, got ? errno : EIO, "reading the echo of a terminal");
		expected -= (size_t)got;
	}
	return 0;
}

static int pty_put_input(const struct pty_ends *p, const struct pty_queue *q, struct err *e)
{
	static uint8_t keys[2 * PTY_QUEUE_MAX + PTY_LINES_MAX];
	bool canonical = pty_is_canonical(&p->modes);
	struct sys_termios2 plain = pty_plain_modes(&p->modes, canonical);
	size_t from = 0, n = 0;

	if (pty_set_modes(p, &plain, e) < 0)
		return -1;
	for (size_t i = 0; i < q->n_lines; i++) {
		n += pty_type(keys + n, q->input + from, q->line_ends[i] - from, true);
		from = q->line_ends[i];
	}
	if (canonical) {
		n += pty_type(keys + n, q->input + from, q->n_input - from, false);
	} else {
		memcpy(keys + n, q->input + from, q->n_input - from);
		n += q->n_input - from;
	}
	if (pty_write_all(p->master, p->slave, keys, n, e) < 0)
		return -1;
	return pty_drop_echo(p, q->n_input, e);
}

static int pty_put_output(const struct pty_ends *p, const struct pty_queue *q, struct err *e)
{
	struct sys_termios2 plain = pty_plain_modes(&p->modes, p->modes.lflag & ICANON);

	if (p->slave < 0)
		return err_set(e, ERR_IMAGE, 0, "output waits in a terminal that nobody has opened");
	if (pty_set_modes(p, &plain, e) < 0)
		return -1;
	return pty_write_all(p->slave, p->master, q->output, q->n_output, e);
}

static int pty_put_stop(const struct pty_ends *p, const struct pty_queue *q, struct err *e)
{
	struct sys_termios2 plain = pty_plain_modes(&p->modes, p->modes.lflag & ICANON);
	const char stop = PTY_STOP;

	if (p->slave < 0)
		return err_set(e, ERR_IMAGE, 0, "the output of a terminal that nobody has opened is stopped");
	if (q->stopped == PTY_STOPPED_BY_CALL) {
		if (ioctl(p->slave, TCXONC, TCOOFF) < 0)
			return err_sys(e, errno, "stopping the output of a terminal");
		return 0;
	}
	plain.cc[VSTOP] = PTY_STOP;
	plain.cc[VSTART] = PTY_START;
	if (pty_set_modes(p, &plain, e) < 0)
		return -1;
	if (write(p->master, &stop, 1) != 1)
		return err_sys(e, errno, "writing to a terminal");
	for (int ms = 0; ms < PTY_PATIENCE && pty_is_ready(p->slave, POLLOUT, 0); ms++)
		usleep(1000);
	return 0;
}

static int pty_put(const struct pty_ends *p, const struct pty_queue *q, struct err *e)
{
	if ((q->n_lines || q->n_input) && pty_put_input(p, q, e) < 0)
		return -1;
	if (q->n_output && pty_put_output(p, q, e) < 0)
		return -1;
	if (q->stopped && pty_put_stop(p, q, e) < 0)
		return -1;
	return pty_set_modes(p, &p->modes, e);
}

int pty_queue_put(int master, int slave, const struct sys_termios2 *modes, const struct pty_queue *q,
		  struct err *e)
{
	const struct pty_ends p = { .master = master, .slave = slave, .modes = *modes };

	return pty_put(&p, q, e);
}

/* ---- peek ---- */

/* What is switched off in the program's pseudo-terminal while we look, and on again afterwards. */
struct pty_guise {
	int flags; /* of the master */
	int packet;
	uint8_t locked[SYS_TERMIOS_SIZE];
	bool is_locked;
};

static int pty_guise_begin(struct pty_guise *g, int master, struct err *e)
{
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE_CHECKPOINT); /* TIOCSLCKTRMIOS */
	static const uint8_t unlocked[SYS_TERMIOS_SIZE];
	int r;

	g->flags = fcntl(master, F_GETFL);
	g->packet = sys_tty_number(master, TIOCGPKT);
	r = sys_tty_locked_modes(master, g->locked);
	if (g->flags < 0 || g->packet < 0 || r < 0)
		return err_sys(e, errno, "asking a terminal for its state");
	g->is_locked = memcmp(g->locked, unlocked, sizeof(unlocked)) != 0;
	r = g->is_locked ? sys_tty_lock_modes(master, unlocked) : 0;
	if (r < 0) {
		err_sys(e, r, "unlocking its terminal modes, to see what waits in it");
		return err_help(e, "give torpor the capability: setcap cap_checkpoint_restore=ep torpor");
	}
	if (g->packet)
		ioctl(master, TIOCPKT, &(int){ 0 });
	fcntl(master, F_SETFL, g->flags | O_NONBLOCK);
	return 0;
}

static void pty_guise_end(const struct pty_guise *g, int master)
{
	cleanup_privilege struct privilege p = privilege_raise(PRIVILEGE_CHECKPOINT);

	if (g->packet)
		ioctl(master, TIOCPKT, &(int){ 1 });
	if (g->is_locked)
		sys_tty_lock_modes(master, g->locked);
	fcntl(master, F_SETFL, g->flags);
}

/* An open file description of our own. A TIOCEXCL that would be in the way is lifted through `slave`. */
static int pty_open_own_slave(int master, int slave, struct err *e)
{
	bool exclusive = slave >= 0 && sys_tty_number(slave, TIOCGEXCL) == 1;
	int fd;

	if (exclusive)
		ioctl(slave, TIOCNXCL);
	fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		err_sys(e, errno, "opening the slave of a terminal");
	if (exclusive)
		ioctl(slave, TIOCEXCL);
	return fd;
}

/* In a process of its own, with all signals blocked. */
static int pty_take_and_put(int master, int slave, struct pty_queue *q, struct err *e)
{
	struct pty_ends p = { .master = master };
	struct err ignored = ERR_INIT;
	struct pty_guise guise;
	int r = sys_tty_modes(master, &p.modes), put;

	if (r < 0)
		return err_sys(e, r, "asking a terminal for its modes");
	if (pty_guise_begin(&guise, master, e) < 0)
		return -1;
	p.slave = pty_open_own_slave(master, slave, e);
	if (p.slave >= 0) {
		r = pty_take(&p, q, e);
		put = pty_put(&p, q, r < 0 ? &ignored : e);
		r = r < 0 ? r : put;
		close(p.slave);
	} else {
		r = -1;
	}
	pty_guise_end(&guise, master);
	return r;
}

/* The outcome of the process that looks, in memory that torpor shares with it. */
struct pty_outcome {
	struct pty_queue queue; /* first: it is what is handed out */
	int master, slave;
	struct err err;
	int result;
};

struct pty_queue *pty_queue_new(void)
{
	struct pty_outcome *o =
		mmap(NULL, sizeof(*o), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return o == MAP_FAILED ? NULL : &o->queue;
}

void pty_queue_free(struct pty_queue **q)
{
	if (*q)
		munmap(*q, sizeof(struct pty_outcome));
}

static void pty_survive(void *data)
{
	struct pty_outcome *o = data;

	o->result = pty_take_and_put(o->master, o->slave, &o->queue, &o->err);
}

static int pty_peek_by_other(struct pty_outcome *o, struct err *e)
{
	if (survivor_run(pty_survive, o, 0, e) < 0)
		return -1;
	if (o->result < 0)
		*e = o->err;
	return o->result;
}

/* Does plainly nothing wait? What was typed in canonical mode and not ended is not shown. */
static bool pty_is_idle(int master, int slave)
{
	struct sys_termios2 modes;

	if (pty_is_ready(master, POLLIN, 0) || slave < 0 || pty_is_ready(slave, POLLIN, 0))
		return false;
	return pty_is_ready(slave, POLLOUT, 0) && sys_tty_number(slave, FIONREAD) == 0 &&
	       sys_tty_modes(master, &modes) == 0 && !pty_is_canonical(&modes);
}

int pty_queue_peek(int master, int slave, struct pty_queue **ret, struct err *e)
{
	*ret = NULL;
	if (pty_is_idle(master, slave))
		return 0;
	*ret = pty_queue_new();
	if (!*ret)
		return err_nomem(e);
	((struct pty_outcome *)*ret)->master = master;
	((struct pty_outcome *)*ret)->slave = slave;
	return pty_peek_by_other((struct pty_outcome *)*ret, e);
}
