/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/text.h"

const struct cmd *const cmds[] = {
	&cmd_dump, &cmd_restore, &cmd_run, &cmd_check, &cmd_inspect, &cmd_verify, &cmd_squash, &cmd_diff, &cmd_core, &cmd_ps, &cmd_untrack, &cmd_help,
	NULL,
};

enum { OBSTACLE_TEXT_MAX = 1024, MESSAGE_MAX = 2048, SECONDS_MAX = 1000000 };

const struct cmd *cmd_find(const char *name)
{
	for (size_t i = 0; cmds[i]; i++)
		if (strcmp(cmds[i]->name, name) == 0)
			return cmds[i];
	return NULL;
}

/* Names of files and programs are not ours: made harmless for a terminal. */
static void print_message(const char *text, const char *id, const char *help)
{
	struct pool pool = POOL_INIT;

	fprintf(stderr, "torpor: %s", text_safe(&pool, text, MESSAGE_MAX));
	fprintf(stderr, id[0] ? " [%s]\n" : "\n", id);
	if (help[0])
		fprintf(stderr, "torpor: what would help: %s\n", text_safe(&pool, help, MESSAGE_MAX));
	pool_done(&pool);
}

int cmd_complain_of(enum torpor_reason reason, const char *id, const char *help, const char *text)
{
	print_message(text, id, help);
	if ((id[0] || reason == TORPOR_STATE) && isatty(STDERR_FILENO))
		fprintf(stderr, "torpor: 'torpor help %s' says more\n", id[0] ? id : "ID");
	return (int)reason;
}

int cmd_fail(struct torpor_error *error)
{
	int status = cmd_complain_of(torpor_error_reason(error), torpor_error_id(error), torpor_error_help(error),
				     torpor_error_text(error));

	torpor_error_free(error);
	return status;
}

int cmd_complain(enum torpor_reason reason, const char *help, const char *fmt, ...)
{
	char text[MESSAGE_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return cmd_complain_of(reason, "", help ?: "", text);
}

int cmd_no_memory(void)
{
	return cmd_complain(TORPOR_SYSTEM, NULL, "torpor itself ran out of memory");
}

void cmd_print_obstacles(const struct torpor_result *result)
{
	struct pool pool = POOL_INIT;
	const struct torpor_obstacle *o;

	for (size_t i = 0; (o = torpor_result_obstacle(result, i)); i++)
		fprintf(stderr, "torpor: cannot save %s; %s [%s]\n", text_safe(&pool, o->text, OBSTACLE_TEXT_MAX), o->help, o->id);
	pool_done(&pool);
}

int cmd_parse_output(const struct cmd *cmd, const char *arg, const char **ret)
{
	if (strcmp(arg, "-") == 0)
		return cmd_usage(cmd, "it cannot be written to the standard output: give it a name (a file that is called so: ./-)");
	*ret = arg;
	return 0;
}

int cmd_usage(const struct cmd *cmd, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("torpor: ", stderr);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (cmd)
		fprintf(stderr, "\nusage: torpor %s\n", cmd->usage);
	else
		fputs("\ntry: torpor --help\n", stderr);
	return TORPOR_USAGE;
}

int cmd_parse_pid(const char *text)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	return errno || *end || end == text || n < 1 || n > 4194304 ? 0 : (int)n;
}

int cmd_parse_timeout(const struct cmd *cmd, const char *text, struct torpor_options *o)
{
	char *end;
	double seconds = strtod(text, &end);

	if (*end || !(seconds >= 0.001 && seconds <= SECONDS_MAX))
		return cmd_usage(cmd, "--timeout needs a number of seconds, not '%s'", text);
	torpor_options_set_timeout_ms(o, (unsigned)(seconds * 1000));
	return 0;
}

int cmd_parse_program(const struct cmd *cmd, const char *text, int *ret_pid, const char **ret_name)
{
	struct torpor_error *error = NULL;

	*ret_name = NULL;
	*ret_pid = cmd_parse_pid(text);
	if (*ret_pid)
		return 0;
	if (!torpor_name_is_valid(text))
		return cmd_usage(cmd, "'%s' is not a PID, nor a name", text);
	*ret_pid = torpor_find(text, &error);
	*ret_name = text;
	return *ret_pid < 0 ? cmd_fail(error) : 0;
}

static void say(void *data, enum torpor_log_level level, const char *text)
{
	const struct cmd_globals *g = data;

	if ((int)level <= g->verbose)
		fprintf(stderr, "torpor: %s\n", text);
}

struct torpor_options *cmd_options(const struct cmd_globals *g, struct cmd_progress *p)
{
	struct torpor_options *o = torpor_options_new();

	if (!o) {
		cmd_no_memory();
		return NULL;
	}
	torpor_options_set_in_process(o, 1);
	torpor_options_set_log(o, say, (void *)(uintptr_t)g);
	torpor_options_set_progress(o, cmd_progress_show, p);
	return o;
}

void cmd_hold_signals(sigset_t *held, bool stop)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP };

	sigemptyset(held);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction sa;

		if (signals[i] == SIGTSTP && !stop)
			continue;
		if (sigaction(signals[i], NULL, &sa) < 0 || sa.sa_handler != SIG_IGN)
			sigaddset(held, signals[i]);
	}
	sigprocmask(SIG_BLOCK, held, NULL);
}

void cmd_print_help(const struct cmd *cmd)
{
	printf("usage: torpor %s\n\n%s", cmd->usage, cmd->help);
}

static void print_help(void)
{
	puts("torpor puts a running process tree to sleep in one file and wakes it up later:\n"
	     "same PIDs, memory, threads, files, sockets, timers. No root needed.\n\nusage:");
	for (size_t i = 0; cmds[i]; i++)
		printf("  torpor %s\n", cmds[i]->usage);
	puts("\noptions before or after the command:\n"
	     "  -v, -vv      say more\n"
	     "  -q, --quiet  say nothing but errors and what was asked for\n"
	     "  --progress=bar|plain|json|none  how to show it (default: a bar on a terminal, else lines)\n"
	     "  --log FILE   append messages to FILE instead of standard error\n"
	     "  --version, --help; torpor COMMAND --help\n\n"
	     "exit status: 0 done; 1 the state cannot be saved or made again; 2 usage;\n"
	     "  3 not permitted; 4 bad image; 5 the kernel or the system failed");
}

/* `*i` is where this option stands; it moves to the option's value. Returns 0, or negative with a message. */
static int take_value(const char **ret, int *i, int argc, char **argv, const char *name)
{
	const char *equals = strchr(argv[*i], '=');

	if (!equals && ++*i == argc) {
		cmd_usage(NULL, "%s needs a value", name);
		return -1;
	}
	*ret = equals ? equals + 1 : argv[*i];
	return 0;
}

static bool is_option(const char *arg, const char *name)
{
	size_t size = strlen(name);

	return strncmp(arg, name, size) == 0 && (!arg[size] || arg[size] == '=');
}

/* Returns 1 when this was a global option, 0 when it was none, or negative. */
static int take_global(struct cmd_globals *g, int *i, int argc, char **argv)
{
	const char *arg = argv[*i], *mode;

	if (strcmp(arg, "-v") == 0 || strcmp(arg, "--verbose") == 0)
		g->verbose++;
	else if (strcmp(arg, "-vv") == 0)
		g->verbose += 2;
	else if (strcmp(arg, "-q") == 0 || strcmp(arg, "--quiet") == 0)
		g->quiet = true;
	else if (is_option(arg, "--log"))
		return take_value(&g->log_path, i, argc, argv, "--log") < 0 ? -1 : 1;
	else if (!is_option(arg, "--progress"))
		return 0;
	else if (take_value(&mode, i, argc, argv, "--progress") < 0)
		return -1;
	else if (!cmd_progress_parse(mode, &g->progress))
		return cmd_usage(NULL, "--progress is one of auto, bar, plain, json, none, not '%s'", mode), -1;
	return 1;
}

/* Take the global options out of argv, wherever they stand. Returns the new argc, or -1 with a message. */
static int take_globals(struct cmd_globals *g, int argc, char **argv)
{
	int kept = 0, r = 0;

	for (int i = 0; i < argc && r >= 0; i++) {
		int at = i;

		r = take_global(g, &i, argc, argv);
		if (r == 0)
			argv[kept++] = argv[at];
	}
	argv[kept] = NULL;
	if (g->quiet) {
		g->verbose = -1;
		if (g->progress == CMD_PROGRESS_AUTO)
			g->progress = CMD_PROGRESS_NONE;
	}
	return r < 0 ? -1 : kept;
}

static int open_log(const struct cmd_globals *g)
{
	int fd;

	if (!g->log_path)
		return 0;
	fd = open(g->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || dup2(fd, STDERR_FILENO) < 0) {
		fprintf(stderr, "torpor: cannot write the log %s: %s\n", g->log_path, strerror(errno));
		return TORPOR_SYSTEM;
	}
	close(fd);
	return 0;
}

static bool wants_help(int argc, char **argv)
{
	for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	struct cmd_globals g = { 0 };
	const struct cmd *cmd;

	if (torpor_process_begin() < 0) {
		fputs("torpor: it must not be set-user-ID or set-group-ID\n"
		      "torpor: what would help: give it the capability instead: setcap cap_checkpoint_restore=ep torpor\n", stderr);
		return TORPOR_PERMISSION;
	}
	argc = take_globals(&g, argc, argv);
	if (argc < 0)
		return TORPOR_USAGE;
	if (argc < 2)
		return cmd_usage(NULL, "a command is missing");
	if (strcmp(argv[1], "--version") == 0) {
		printf("torpor %s\n", torpor_version());
		return 0;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		print_help();
		return 0;
	}
	cmd = cmd_find(argv[1]);
	if (!cmd)
		return cmd_usage(NULL, "there is no command '%s'", argv[1]);
	if (wants_help(argc, argv)) {
		cmd_print_help(cmd);
		return 0;
	}
	return open_log(&g) ?: cmd->run(&g, argc - 1, argv + 1);
}
