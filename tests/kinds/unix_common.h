/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the tests of unix sockets have in common. Names are written as people do: "@name" is abstract. */

#include <stdbool.h>
#include <sys/types.h>

int unix_new(int type);
int unix_bound(int type, const char *name);
int unix_listening(int type, const char *name, int backlog);
void unix_connect(int fd, const char *name);
int unix_connected(int type, const char *name);

/* "" when it has none. */
void check_name(int fd, const char *expected);
void check_peer(int fd, const char *expected);

void say(int fd, const char *text);
void say_to(int fd, const char *text, const char *name);

/* A whole message is this. */
void get(int fd, const char *text);
void get_from(int fd, const char *text, const char *name);
void get_nothing(int fd);
void get_end(int fd);

int option(int fd, int name);
pid_t peer_pid(int fd);
