/* SPDX-License-Identifier: Apache-2.0 */

/*
 * torpor help: the manual page of a command, or what an id in a message means.
 * The library explains the ids.
 */

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/cmd.h"

enum { WIDTH = 80, WIDTH_MIN = 40, WIDTH_MAX = 100, INDENT = 13, NEAREST_MAX = 12 };

/* ---- text ---- */

static size_t help_width(void)
{
	struct winsize ws;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) < 0 || ws.ws_col < WIDTH_MIN)
		return WIDTH;
	return ws.ws_col < WIDTH_MAX ? ws.ws_col : WIDTH_MAX;
}

/* A title in the margin, and beside it the text, broken between words. */
static void help_print_paragraph(const char *title, const char *text)
{
	size_t width = help_width(), column = INDENT;

	printf("%-*s", INDENT, title);
	while (*text) {
		size_t word = strcspn(text, " ");

		if (column > INDENT && column + 1 + word >= width) {
			printf("\n%*s", INDENT, "");
			column = INDENT;
		}
		column += (size_t)printf("%s%.*s", column > INDENT ? " " : "", (int)word, text);
		text += word;
		text += *text == ' ';
	}
	putchar('\n');
}

/* ---- ids ---- */

/* Ids are compared by their letters and digits alone; "E-" may be left out. */
static void help_normalize(const char *text, char *buf, size_t size)
{
	size_t n = 0;

	if (strncasecmp(text, "E-", 2) == 0)
		text += 2;
	for (; *text && n + 1 < size; text++)
		if (isalnum((unsigned char)*text))
			buf[n++] = (char)toupper((unsigned char)*text);
	buf[n] = '\0';
}

static bool help_matches(const struct torpor_explanation *id, const char *text, bool partly)
{
	char a[64], b[64];

	help_normalize(id->id, a, sizeof(a));
	help_normalize(text, b, sizeof(b));
	return b[0] && (partly ? strstr(a, b) != NULL : strcmp(a, b) == 0);
}

static void help_print_id(const struct torpor_explanation *id)
{
	printf("%s\n\n", id->id);
	help_print_paragraph("What it is", id->what);
	help_print_paragraph("Why", id->why);
	help_print_paragraph("What to do", id->act);
}

/* The only one that the topic is, or is a part of; else how many it is a part of is in *ret_n. */
static const struct torpor_explanation *help_find_id(const char *topic, size_t *ret_n)
{
	const struct torpor_explanation *found = NULL, *id;

	*ret_n = 0;
	for (size_t i = 0; (id = torpor_explanation(i)); i++)
		if (help_matches(id, topic, false))
			return id;
	for (size_t i = 0; (id = torpor_explanation(i)); i++)
		if (help_matches(id, topic, true))
			found = id, ++*ret_n;
	return *ret_n == 1 ? found : NULL;
}

/* No such topic: the `n` that it is a part of, if they are few. */
static int help_unknown(const char *topic, size_t n)
{
	const struct torpor_explanation *id;

	cmd_usage(&cmd_help, "there is no command or id '%s'%s", topic, n && n <= NEAREST_MAX ? "; is it one of these?" : "");
	for (size_t i = 0; n && n <= NEAREST_MAX && (id = torpor_explanation(i)); i++)
		if (help_matches(id, topic, true))
			fprintf(stderr, "  %s\n", id->id);
	return TORPOR_USAGE;
}

/* ---- manual pages ---- */

/* Runs man(1) for the page; `quiet`: only to see whether there is one. Returns its exit status. */
static int help_run_man(const char *page, bool quiet)
{
	const char *const argv[] = { "man", quiet ? "-w" : page, quiet ? page : NULL, NULL };
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		int fd = quiet ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1;

		if (fd >= 0) {
			dup2(fd, STDOUT_FILENO);
			dup2(fd, STDERR_FILENO);
		}
		execvp("man", (char *const *)argv);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return 127;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static int help_command(const struct cmd *cmd)
{
	char page[64];

	torpor_process_end();
	snprintf(page, sizeof(page), "torpor-%s", cmd->name);
	if (help_run_man(page, true) == 0 && help_run_man(page, false) == 0)
		return 0;
	cmd_print_help(cmd);
	return 0;
}

/* ---- the command ---- */

static void help_list(void)
{
	const struct torpor_explanation *id;

	puts("commands (torpor help COMMAND shows the manual page)");
	for (size_t i = 0; cmds[i]; i++)
		printf("  torpor %s\n", cmds[i]->usage);
	puts("\nids of messages (torpor help ID says why, and what to do)");
	for (size_t i = 0; (id = torpor_explanation(i)); i++)
		printf("  %-24s %s\n", id->id, id->what);
}

static int help_run(const struct cmd_globals *g, int argc, char **argv)
{
	const struct torpor_explanation *id;
	const struct cmd *cmd;
	size_t n;

	(void)g;
	if (argc == 1) {
		help_list();
		return 0;
	}
	if (argc != 2)
		return cmd_usage(&cmd_help, "one topic, not also '%s'", argv[2]);
	cmd = cmd_find(argv[1]);
	if (cmd)
		return help_command(cmd);
	id = help_find_id(argv[1], &n);
	if (!id)
		return help_unknown(argv[1], n);
	help_print_id(id);
	return 0;
}

const struct cmd cmd_help = {
	.name = "help",
	.usage = "help [COMMAND|ID]",
	.help = "Show the manual page of a command, or explain the id of a message, as in\n"
		"\"torpor: cannot save ... [E-FD-IO-URING]\": what it is, why it stands in the way, what to\n"
		"do. Without an argument, list all commands and ids.\n",
	.run = help_run,
};
