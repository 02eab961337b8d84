/* SPDX-License-Identifier: Apache-2.0 */

/* What progress looks like on a terminal, in a file, and for programs; and that it does not come too often. */

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cmd/progress.h"
#include "unit.h"

enum { MIB = 1 << 20, HALF_SECOND_US = 520000 };

static int saved;

static void step(struct cmd_progress *p, const char *what, uint64_t done, uint64_t total)
{
	cmd_progress_show(p, &(struct torpor_progress){ what, done, total, TORPOR_BYTES });
}

static void count(struct cmd_progress *p, const char *what, uint64_t done, uint64_t total)
{
	cmd_progress_show(p, &(struct torpor_progress){ what, done, total, TORPOR_ATTEMPTS });
}

static void redirect(int fd)
{
	saved = dup(STDERR_FILENO);
	dup2(fd, STDERR_FILENO);
	close(fd);
}

static void restore(void)
{
	dup2(saved, STDERR_FILENO);
	close(saved);
}

/* What has been written up to now; "" for nothing. */
static char *shown(int fd)
{
	static char buf[4096];
	size_t used = 0;
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (poll(&p, 1, 20) > 0 && p.revents & POLLIN) {
		ssize_t n = read(fd, buf + used, sizeof(buf) - 1 - used);

		if (n <= 0)
			break;
		used += (size_t)n;
	}
	buf[used] = '\0';
	return buf;
}

static void begin_terminal(int columns, int *ret)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
	struct winsize ws = { .ws_row = 24, .ws_col = (unsigned short)columns };

	UNIT_CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	UNIT_CHECK(slave >= 0 && ioctl(slave, TIOCSWINSZ, &ws) == 0);
	redirect(slave);
	*ret = master;
}

static void check_bar(int columns, bool bar)
{
	struct cmd_progress p;
	int master = -1;
	char *text;

	begin_terminal(columns, &master);
	cmd_progress_init(&p, CMD_PROGRESS_AUTO);
	step(&p, "copying memory", 1 * MIB, 4 * MIB);
	text = shown(master);
	UNIT_CHECK(!text[0]); /* it is not half a second yet */
	usleep(HALF_SECOND_US);
	step(&p, "copying memory", 2 * MIB, 4 * MIB);
	step(&p, "copying memory", 3 * MIB, 4 * MIB); /* too soon */
	text = shown(master);
	UNIT_CHECK(strncmp(text, "\r\033[Kcopying memory ", 18) == 0);
	UNIT_CHECK(strstr(text, " 50 % of 4.0 MiB, ") && strstr(text, " MiB/s, ") && strstr(text, " s left"));
	UNIT_CHECK(!strstr(text, "75 %"));
	UNIT_CHECK(!!strstr(text, "##########..........") == bar);
	cmd_progress_done(&p);
	UNIT_CHECK(strcmp(shown(master), "\r\033[K") == 0);
	restore();
	close(master);
}

static void plain(void)
{
	struct cmd_progress p;
	int ends[2];
	char *text;

	UNIT_CHECK(pipe(ends) == 0);
	redirect(ends[1]);
	cmd_progress_init(&p, CMD_PROGRESS_AUTO);
	step(&p, "copying memory", 1 * MIB, 4 * MIB);
	UNIT_CHECK(!shown(ends[0])[0]); /* lines come every five seconds */
	p.shown_ns -= 6000000000ull;
	p.step_ns -= 6000000000ull;
	step(&p, "copying memory", 3 * MIB, 4 * MIB);
	count(&p, "making processes", 7, 100);
	text = shown(ends[0]);
	UNIT_CHECK(strncmp(text, "torpor: copying memory 75 % of 4.0 MiB, ", 40) == 0 && strstr(text, ", 2 s left\n"));
	UNIT_CHECK(!strchr(text, '\033') && !strstr(text, "making"));
	p.shown_ns -= 6000000000ull;
	count(&p, "making processes", 8, 100);
	UNIT_CHECK(strcmp(shown(ends[0]), "torpor: making processes: 8 of at most 100\n") == 0);
	cmd_progress_done(&p);
	UNIT_CHECK(!shown(ends[0])[0]);
	restore();
	close(ends[0]);
}

static void json(void)
{
	struct cmd_progress p;
	int ends[2];
	char *text;

	UNIT_CHECK(pipe(ends) == 0);
	redirect(ends[1]);
	cmd_progress_init(&p, CMD_PROGRESS_JSON);
	step(&p, "copying memory", 1, 4);
	step(&p, "copying memory", 2, 4); /* too soon */
	step(&p, "copying memory", 4, 4); /* the end is always told of, once */
	step(&p, "copying memory", 4, 4);
	text = shown(ends[0]);
	UNIT_CHECK(strstr(text, "{\"step\": \"copying memory\", \"done\": 1, \"total\": 4, \"unit\": \"bytes\", ") == text);
	UNIT_CHECK(!strstr(text, "\"done\": 2") && strstr(text, "\"done\": 4") && strstr(text, "\"seconds_left\": 0.0}\n"));
	UNIT_CHECK(strstr(text, "\"done\": 4") == strrchr(text, '{') + strlen("{\"step\": \"copying memory\", "));
	UNIT_CHECK(strchr(strchr(text, '\n') + 1, '\n')[1] == '\0'); /* two lines */
	count(&p, "making processes", 1, 9);
	UNIT_CHECK(strstr(shown(ends[0]), "\"total\": 9, \"unit\": \"attempts\", "));
	restore();
	close(ends[0]);
}

static void none(void)
{
	enum cmd_progress_mode mode;
	struct cmd_progress p;
	int ends[2];

	UNIT_CHECK(pipe(ends) == 0);
	redirect(ends[1]);
	cmd_progress_init(&p, CMD_PROGRESS_NONE);
	p.shown_ns = p.started_ns = 0;
	step(&p, "copying memory", 4, 4);
	count(&p, "making processes", 8, 8);
	UNIT_CHECK(!shown(ends[0])[0]);
	restore();
	close(ends[0]);
	UNIT_CHECK(cmd_progress_parse("json", &mode) && mode == CMD_PROGRESS_JSON);
	UNIT_CHECK(!cmd_progress_parse("colourful", &mode));
}

static void bar(void)
{
	setenv("LC_ALL", "C", 1);
	check_bar(100, true);
}

static void narrow(void)
{
	check_bar(40, false);
}

UNIT_MAIN(UNIT_CASE(bar), UNIT_CASE(narrow), UNIT_CASE(plain), UNIT_CASE(json), UNIT_CASE(none))
