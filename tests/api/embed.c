/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A program that has libtorpor inside: threads, handlers, limits and capabilities of its own, none of which may be
 * touched. Each test is a function; the name of one is the first argument. Ends with 0, or says what is wrong.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "torpor/torpor.h"

enum { SMALL_STACK = 64 << 10, THREADS = 4, BALLAST = 64 << 20, CHILD_MEMORY = 8 << 20 };

static const char *folder; /* for images */

static _Noreturn __attribute__((format(printf, 1, 2))) void fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

#define expect(condition) \
	do { \
		if (!(condition)) \
			fail("line %d: not true: %s", __LINE__, #condition); \
	} while (0)

static void succeed(int r, struct torpor_error *error, const char *what)
{
	if (r < 0)
		fail("%s: %s [%s] (%s)", what, torpor_error_text(error), torpor_error_id(error), torpor_error_help(error));
}

static const char *image(void)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/embed-%d.torpor", folder, getpid());
	return path;
}

/* ---- what must stay as it is ---- */

static atomic_bool stop;
static atomic_int handled;

static void *work(void *arg)
{
	(void)arg;
	while (!stop) { /* the allocator's locks are often held */
		void *p = malloc(1000);

		memset(p, 1, 1000);
		free(p);
	}
	return NULL;
}

static void handle(int signo)
{
	(void)signo;
	handled++;
}

struct surroundings {
	sigset_t mask;
	struct {
		void (*handler)(int);
		int flags;
	} actions[4];
	struct rlimit files;
	unsigned long long capabilities[3];
	size_t fds;
	int dumpable, subreaper;
	char cwd[512];
};

static size_t count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	size_t n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void look_around(struct surroundings *s)
{
	static const int signals[4] = { SIGCHLD, SIGPIPE, SIGXFSZ, SIGTERM };
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");
	int i = 0;

	memset(s, 0, sizeof(*s));
	pthread_sigmask(SIG_SETMASK, NULL, &s->mask);
	for (size_t k = 0; k < 4; k++) {
		struct sigaction sa;

		sigaction(signals[k], NULL, &sa);
		s->actions[k].handler = sa.sa_handler;
		s->actions[k].flags = sa.sa_flags;
	}
	getrlimit(RLIMIT_NOFILE, &s->files);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, "Cap", 3) == 0 && i < 3)
			s->capabilities[i++] = strtoull(strchr(line, ':') + 1, NULL, 16);
	fclose(f);
	s->dumpable = prctl(PR_GET_DUMPABLE);
	prctl(PR_GET_CHILD_SUBREAPER, &s->subreaper);
	s->fds = count_fds();
	if (!getcwd(s->cwd, sizeof(s->cwd)))
		fail("getcwd");
}

static struct surroundings before;
static pthread_t threads[THREADS];
static char *ballast;

static void begin(void)
{
	struct sigaction sa = { .sa_handler = handle, .sa_flags = SA_RESTART };

	sigaction(SIGCHLD, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 200, 4000 });
	ballast = malloc(BALLAST);
	memset(ballast, 7, BALLAST);
	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, NULL);
	look_around(&before);
}

static void end(void)
{
	struct surroundings after;
	siginfo_t si;

	look_around(&after);
	if (memcmp(&before, &after, sizeof(before)) != 0)
		fail("something of the caller has changed: fds %zu %zu, files %lu %lu, subreaper %d, capabilities %llx %llx",
		     before.fds, after.fds, before.files.rlim_cur, after.files.rlim_cur, after.subreaper,
		     before.capabilities[1], after.capabilities[1]);
	if (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0 || errno != ECHILD)
		fail("there are children left");
	stop = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	free(ballast);
	unlink(image());
}

/* ---- a program to save ---- */

/* What the file of this program may have given it. */
static void give_up_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 } };

	if (syscall(SYS_capset, &header, data) < 0)
		fail("capset");
}

/* It counts in a file, and ends with status 7 when it is told to. */
static _Noreturn void count(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	char *memory = mmap(NULL, CHILD_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned n = 0;

	memset(memory, 3, CHILD_MEMORY);
	give_up_capabilities();
	signal(SIGTERM, SIG_DFL);
	for (;;) {
		n += (unsigned)memory[n % CHILD_MEMORY] / 3;
		if (pwrite(fd, &n, sizeof(n), 0) != sizeof(n) || access("stop-counting", F_OK) == 0)
			_exit(7);
		usleep(1000);
	}
}

static const char *counter_path(void)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/embed-%d.count", folder, getpid());
	return path;
}

static unsigned counted(void)
{
	int fd = open(counter_path(), O_RDONLY);
	unsigned n = 0;

	if (fd < 0 || read(fd, &n, sizeof(n)) != sizeof(n))
		n = 0;
	close(fd);
	return n;
}

static void await_count(unsigned beyond)
{
	for (int i = 0; i < 5000; i++) {
		if (counted() > beyond)
			return;
		usleep(2000);
	}
	fail("it does not count beyond %u", beyond);
}

static int not_for_it = -1; /* what the program does not inherit */

static pid_t start_counting(void)
{
	const char *path = counter_path();
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		close(not_for_it);
		close(0), close(1), close(2);
		open("/dev/null", O_RDWR), dup(0), dup(0);
		count(path);
	}
	await_count(0);
	return pid;
}

/* ---- the tests ---- */

struct heard {
	int progress, logs, ready;
	uint64_t done;
	int pid, refuse;
};

static void hear_progress(void *data, const struct torpor_progress *p)
{
	struct heard *h = data;

	expect(p->unit == TORPOR_BYTES && p->total && p->done <= p->total && p->step[0]);
	h->progress++;
	h->done = p->done;
}

static void hear_log(void *data, enum torpor_log_level level, const char *text)
{
	struct heard *h = data;

	expect(level <= TORPOR_LOG_DEBUG && text[0]);
	h->logs++;
}

static int hear_ready(void *data, struct torpor_program *program)
{
	struct heard *h = data;

	h->ready++;
	h->pid = torpor_program_pid(program);
	expect(kill(h->pid, 0) == 0);
	return h->refuse;
}

static struct torpor_options *options(struct heard *h)
{
	struct torpor_options *o = torpor_options_new();

	torpor_options_set_progress(o, hear_progress, h);
	torpor_options_set_log(o, hear_log, h);
	torpor_options_set_ready(o, hear_ready, h);
	torpor_options_set_sync(o, 0);
	return o;
}

static void check_then_dump(pid_t pid, struct torpor_options *o, struct heard *h)
{
	struct torpor_error *error = NULL;
	struct torpor_result *result;
	int status;

	succeed(torpor_check(pid, o, &result, &error), error, "check");
	expect(result->pid == pid && result->tasks == 1 && result->threads == 1 && result->bytes >= CHILD_MEMORY && !result->obstacles);
	torpor_result_free(result);
	succeed(torpor_dump(pid, image(), o, &result, &error), error, "dump");
	expect(result->bytes >= CHILD_MEMORY && strcmp(result->path, image()) == 0 && !torpor_result_obstacle(result, 0));
	expect(h->progress > 1 && h->done >= CHILD_MEMORY && h->logs > 1);
	torpor_result_free(result);
	expect(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
}

/* Saved, restored, waited for. */
static void test_cycle(void)
{
	struct torpor_error *error = NULL;
	struct heard h = { 0 };
	struct torpor_options *o = options(&h);
	struct torpor_program *program;
	int status = 0;
	unsigned at;

	begin();
	check_then_dump(start_counting(), o, &h);
	at = counted();
	h.progress = 0;
	succeed(torpor_restore(image(), o, &program, &error), error, "restore");
	expect(h.ready == 1 && h.pid == torpor_program_pid(program) && h.progress > 0);
	await_count(at + 5);
	expect(torpor_program_poll(program, &status) == 0 && torpor_program_fd(program) >= 0);
	kill(torpor_program_pid(program), SIGSTOP);
	expect(poll(&(struct pollfd){ .fd = torpor_program_fd(program), .events = POLLIN }, 1, 10000) == 1);
	expect(torpor_program_poll(program, &status) == 1 && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	kill(torpor_program_pid(program), SIGCONT);
	kill(torpor_program_pid(program), SIGTERM);
	succeed(torpor_program_wait(program, &status, &error), error, "wait");
	expect(WIFSIGNALED(status) ? WTERMSIG(status) == SIGTERM : WEXITSTATUS(status) == 128 + SIGTERM);
	expect(torpor_program_poll(program, &status) < 0);
	torpor_program_detach(program);
	torpor_options_free(o);
	unlink(counter_path());
	end();
}

/* With the capability of this program's file: the same PID, and the very file that is executed is also the program's. */
static void test_capable(void)
{
	struct torpor_error *error = NULL;
	struct heard h = { 0 };
	struct torpor_options *o = options(&h);
	struct torpor_program *program;
	char link[64], before_exe[512] = "", after_exe[512] = "";
	pid_t pid;
	unsigned at;

	begin();
	pid = start_counting();
	snprintf(link, sizeof(link), "/proc/%d/exe", pid);
	expect(readlink(link, before_exe, sizeof(before_exe) - 1) > 0);
	check_then_dump(pid, o, &h);
	at = counted();
	torpor_options_set_tier(o, TORPOR_TIER_CAP);
	succeed(torpor_restore(image(), o, &program, &error), error, "restore");
	expect(torpor_program_pid(program) == pid);
	await_count(at + 5);
	expect(readlink(link, after_exe, sizeof(after_exe) - 1) > 0 && strcmp(before_exe, after_exe) == 0);
	kill(pid, SIGKILL);
	succeed(torpor_program_wait(program, NULL, &error), error, "wait");
	torpor_program_detach(program);
	torpor_options_free(o);
	unlink(counter_path());
	end();
}

/* A thread with a small stack asks for it. */
static void *cycle_once(void *arg)
{
	struct torpor_error *error = NULL;
	struct torpor_program *program;
	pid_t pid = *(pid_t *)arg;

	succeed(torpor_dump(pid, image(), NULL, NULL, &error), error, "dump");
	expect(waitpid(pid, NULL, 0) == pid);
	succeed(torpor_restore(image(), NULL, &program, &error), error, "restore");
	kill(torpor_program_pid(program), SIGKILL);
	succeed(torpor_program_wait(program, NULL, &error), error, "wait");
	torpor_program_detach(program);
	return NULL;
}

static void test_stack(void)
{
	pthread_attr_t attributes;
	pthread_t thread;
	pid_t pid;

	begin();
	pid = start_counting();
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, SMALL_STACK);
	expect(pthread_create(&thread, &attributes, cycle_once, &pid) == 0);
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attributes);
	unlink(counter_path());
	end();
}

/* Let go of, it runs on; called off, it never does. */
static void test_detach(void)
{
	struct torpor_error *error = NULL;
	struct heard h = { 0 };
	struct torpor_options *o = options(&h);
	struct torpor_program *program;
	unsigned at;
	int pid;

	begin();
	check_then_dump(start_counting(), o, &h);
	at = counted();
	h.refuse = -EBUSY;
	expect(torpor_restore(image(), o, &program, &error) == -TORPOR_SYSTEM && torpor_error_number(error) == EBUSY);
	torpor_error_free(error);
	expect(counted() == at && (kill(h.pid, 0) < 0 && errno == ESRCH));
	h.refuse = 0;
	succeed(torpor_restore(image(), o, &program, &error), error, "restore");
	pid = torpor_program_pid(program);
	torpor_program_detach(program);
	at = counted();
	await_count(at + 5);
	kill(pid, SIGKILL);
	torpor_options_free(o);
	unlink(counter_path());
	end();
}

/* What cannot be saved is listed, and runs on. */
static void test_refused(void)
{
	struct torpor_error *error = NULL;
	struct torpor_result *result;
	pid_t pid;
	int ends[2];

	begin();
	if (pipe(ends) < 0)
		fail("pipe");
	not_for_it = ends[1];
	pid = start_counting(); /* its end of the pipe leads to us */
	expect(torpor_dump(pid, image(), NULL, &result, &error) == -TORPOR_STATE);
	expect(strstr(torpor_error_text(error), "cannot save") && result->obstacles >= 1);
	for (size_t i = 0; i < result->obstacles; i++) {
		const struct torpor_obstacle *o = torpor_result_obstacle(result, i);

		expect(torpor_explain(o->id) && strstr(o->text, "task") && o->help[0]);
	}
	expect(!torpor_result_obstacle(result, result->obstacles) && access(image(), F_OK) < 0);
	torpor_result_free(result);
	torpor_error_free(error);
	await_count(counted() + 5);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(ends[0]);
	close(ends[1]);
	error = NULL;
	expect(torpor_dump(-1, image(), NULL, NULL, &error) == -TORPOR_USAGE && torpor_error_text(error)[0]);
	torpor_error_free(error);
	expect(torpor_dump(2, image(), NULL, NULL, NULL) < 0);
	unlink(counter_path());
	end();
}

/* A signal that is held back calls a dump off. */
static void test_interrupted(void)
{
	struct torpor_error *error = NULL;
	struct heard h = { 0 };
	struct torpor_options *o = options(&h);
	sigset_t hold;
	pid_t pid;

	begin();
	signal(SIGQUIT, SIG_DFL); /* a shell may have us ignore it, and then it would be no reason */
	pid = start_counting();
	sigemptyset(&hold);
	sigaddset(&hold, SIGQUIT);
	pthread_sigmask(SIG_BLOCK, &hold, NULL);
	pthread_kill(pthread_self(), SIGQUIT);
	kill(pid, SIGSTOP); /* not that it would help it */
	for (int i = 0; i < 50; i++) { /* the signal is passed on within some milliseconds, which a dump may not take */
		if (torpor_dump(pid, image(), o, NULL, &error) < 0)
			break;
		if (waitpid(pid, NULL, 0) != pid)
			fail("it was saved, and is there");
		kill(pid = start_counting(), SIGSTOP);
	}
	expect(error && strstr(torpor_error_text(error), "interrupted"));
	torpor_error_free(error);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	sigtimedwait(&hold, NULL, &(struct timespec){ 0 });
	pthread_sigmask(SIG_UNBLOCK, &hold, NULL);
	torpor_options_free(o);
	unlink(counter_path());
	end();
}

static void die(void *data, const struct torpor_progress *p)
{
	(void)data;
	if (p->done < p->total)
		kill(getpid(), SIGKILL);
}

/* Who asked for a dump is killed in the middle of it: the program runs on, and nobody goes on dumping. */
static void test_killed(void)
{
	struct torpor_options *o = torpor_options_new();
	pid_t program, caller;
	int status;

	begin();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	program = start_counting();
	torpor_options_set_progress(o, die, NULL);
	caller = fork();
	if (caller == 0) {
		torpor_dump(program, image(), o, NULL, NULL);
		_exit(0);
	}
	expect(waitpid(caller, &status, 0) == caller && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	expect(waitpid(-1, &status, 0) > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL); /* the helper */
	await_count(counted() + 5);
	expect(access(image(), F_OK) < 0);
	kill(program, SIGKILL);
	expect(waitpid(program, NULL, 0) == program);
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	torpor_options_free(o);
	unlink(counter_path());
	end();
}

/* Several threads, each with handles of its own. */
static void *look(void *arg)
{
	const char *path = arg;

	for (int i = 0; i < 10; i++) {
		struct torpor_image *image;
		struct torpor_error *error = NULL;

		succeed(torpor_image_open(path, TORPOR_OPEN_VERIFY, &image, &error), error, "open");
		expect(torpor_image_info(image)->tasks == 1 && torpor_image_task(image, 0)->threads == 1);
		expect(torpor_image_describe(image, 0) && !torpor_image_task(image, 1));
		torpor_image_close(image);
	}
	return NULL;
}

static void test_threads(void)
{
	struct heard h = { 0 };
	struct torpor_options *o = options(&h);
	pthread_t lookers[3];

	begin();
	check_then_dump(start_counting(), o, &h);
	for (size_t i = 0; i < 3; i++)
		pthread_create(&lookers[i], NULL, look, (void *)image());
	for (size_t i = 0; i < 3; i++)
		pthread_join(lookers[i], NULL);
	torpor_options_free(o);
	unlink(counter_path());
	end();
}

/* A program in a namespace of its own; it is found by its name, and dumped from outside. */
static void test_run(void)
{
	const char *const argv[] = { "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done", NULL };
	const char *const nothing[] = { "/no/such/program", NULL };
	struct torpor_error *error = NULL;
	struct torpor_options *o = torpor_options_new();
	struct torpor_program *program;
	struct torpor_result *result;
	char name[32];
	int status;

	begin();
	snprintf(name, sizeof(name), "embed-%d", getpid());
	expect(torpor_options_set_name(o, "no name") == -TORPOR_USAGE && torpor_options_set_name(o, name) == 0);
	expect(torpor_run((char *const *)nothing, NULL, &program, &error) == -TORPOR_STATE && torpor_error_number(error) == ENOENT);
	torpor_error_free(error);
	error = NULL;
	succeed(torpor_run((char *const *)argv, o, &program, &error), error, "run");
	expect(torpor_find(name, NULL) == torpor_program_pid(program));
	torpor_options_set_external(o, 1);
	usleep(100000);
	succeed(torpor_dump(torpor_find(name, NULL), image(), o, &result, &error), error, "dump");
	expect(result->tasks >= 1 && strcmp(result->comm, "sh") == 0);
	torpor_result_free(result);
	succeed(torpor_program_wait(program, &status, &error), error, "wait");
	torpor_program_detach(program);
	succeed(torpor_restore(image(), o, &program, &error), error, "restore");
	kill(torpor_program_pid(program), SIGTERM);
	succeed(torpor_program_wait(program, &status, &error), error, "wait for the restored");
	expect(WIFEXITED(status) && WEXITSTATUS(status) == 9);
	torpor_program_detach(program);
	torpor_options_free(o);
	end();
}

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{ "cycle", test_cycle }, { "capable", test_capable }, { "stack", test_stack }, { "detach", test_detach }, { "refused", test_refused }, { "interrupted", test_interrupted },
	{ "killed", test_killed }, { "threads", test_threads }, { "run", test_run },
};

int main(int argc, char **argv)
{
	folder = argc > 2 ? argv[2] : ".";
	prctl(PR_SET_DUMPABLE, 1); /* with a file capability it is not */
	for (size_t i = 0; argc > 1 && i < sizeof(tests) / sizeof(tests[0]); i++) {
		if (strcmp(tests[i].name, argv[1]) == 0) {
			tests[i].run();
			return 0;
		}
	}
	fail("usage: embed TEST FOLDER");
}
