/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/peer.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kinds/kind.h"
#include "kinds/unix/name.h"
#include "util/fd.h"

enum { PEER_SEARCHES = 16 }; /* after that many obstacles nobody reads on, and a search takes time */

const char peer_help_let_go[] = "end that process, save a tree that includes it, or let the connection go (--external)";

static bool peer_holds(int proc, const char *pid, const char *link)
{
	char name[300], text[64];
	cleanup_close int fd = -1;
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(name, sizeof(name), "%s/fd", pid);
	fd = openat(proc, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(fd, entry->d_name, text, sizeof(text) - 1);

		text[n > 0 ? n : 0] = '\0';
		found = strcmp(text, link) == 0;
	}
	fd = -1; /* closed with the stream */
	closedir(dir);
	return found;
}

/* A process outside the tree, as far as we may look, that has an fd with this link; 0: none. */
static pid_t peer_find_holder(const struct collect *c, const char *link)
{
	struct dirent *entry;
	pid_t found = 0;
	DIR *dir = opendir("/proc");

	while (dir && !found && (entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		if (pid > 0 && pid != getpid() && !target_find(c->tree, pid) &&
		    peer_holds(dirfd(dir), entry->d_name, link))
			found = pid;
	}
	if (dir)
		closedir(dir);
	return found;
}

static void peer_read_comm(pid_t pid, char *buf, size_t size)
{
	cleanup_close int fd = fd_open_proc(pid, "comm", O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	snprintf(buf + (n > 0 ? n - 1 : 0), 2, "%s", n > 0 ? "" : "?");
}

/* " at ADDRESS", where it has one. */
static void peer_describe(const struct unix_view *peer, char *buf, size_t size)
{
	char name[128];

	buf[0] = '\0';
	if (!peer || !peer->name_size)
		return;
	unix_name_print(peer->name, peer->name_size, name, sizeof(name));
	snprintf(buf, size, " (%s)", name);
}

int peer_refuse(struct collect *c, const struct fd_view *v, const char *help)
{
	char link[64], comm[64], name[160];
	pid_t holder = 0;

	snprintf(link, sizeof(link), "%s", v->link);
	if (v->peer)
		snprintf(link, sizeof(link), "socket:[%u]", v->peer->ino);
	peer_describe(v->peer, name, sizeof(name));
	if (c->obstacles->n < PEER_SEARCHES)
		holder = peer_find_holder(c, link);
	if (!holder)
		return kind_refuse(c, v, "E-FD-PEER", help, "is connected to a process outside the tree%s", name);
	peer_read_comm(holder, comm, sizeof(comm));
	return kind_refuse(c, v, "E-FD-PEER", help, "is connected to process %d (%s), which is outside the tree%s",
			   holder, comm, name);
}
