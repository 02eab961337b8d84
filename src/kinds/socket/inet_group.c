/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The kernel has no list of the groups of a socket. But it lists those of all
 * interfaces, and a socket can be asked for its sources in a group, which fails
 * if it is no member of it (MCAST_MSFILTER).
 */

#include "kinds/socket/inet_group.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "kinds/kind.h"
#include "kinds/socket/inet_address.h"
#include "util/fd.h"

enum { GROUP_SOURCES = 512 }; /* how many of them are asked for; the kernel permits few (igmp_max_msf) */

static int group_level(const struct sockaddr_storage *group)
{
	return group->ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
}

/* ---- dump ---- */

/* Lines of an interface ("4\teth0 ...") with those of its groups below them ("\t\t010000E0 ..."). */
static bool group_parse_v4(const char *line, unsigned *interface, struct sockaddr_storage *group)
{
	if (*line != '\t') {
		*interface = (unsigned)strtoul(line, NULL, 10);
		return false;
	}
	*group = (struct sockaddr_storage){ .ss_family = AF_INET };
	((struct sockaddr_in *)group)->sin_addr.s_addr = (in_addr_t)strtoul(line, NULL, 16);
	return true;
}

/* "4    eth0            ff020000000000000000000000000001     1 0000000C 0" */
static bool group_parse_v6(const char *line, unsigned *interface, struct sockaddr_storage *group)
{
	struct in6_addr *a = &((struct sockaddr_in6 *)group)->sin6_addr;
	char text[33] = "";

	*group = (struct sockaddr_storage){ .ss_family = AF_INET6 };
	if (sscanf(line, "%u %*s %32s", interface, text) != 2 || strlen(text) != 32)
		return false;
	for (size_t i = 0; i < sizeof(a->s6_addr); i++) {
		const char digits[] = { text[2 * i], text[2 * i + 1], '\0' };

		a->s6_addr[i] = (uint8_t)strtoul(digits, NULL, 16);
	}
	return true;
}

static int group_list_file(struct collect *c, const char *path,
			   bool (*parse)(const char *, unsigned *, struct sockaddr_storage *), struct err *e)
{
	cleanup_close int file = open(path, O_RDONLY | O_CLOEXEC);
	struct inet_group group = { 0 }, *v;
	char *text, *next;
	int r;

	if (file < 0) /* no IPv6 */
		return 0;
	r = fd_read_all(file, c->arena, &text, NULL);
	if (r < 0)
		return err_sys(e, r, "reading %s", path);
	for (char *line = text; *line; line = next) {
		next = strchrnul(line, '\n');
		if (*next)
			*next++ = '\0';
		if (!parse(line, &group.interface, &group.address))
			continue;
		v = arena_grow(c->arena, c->groups.v, c->groups.n, sizeof(*v));
		if (!v)
			return err_nomem(e);
		v[c->groups.n++] = group;
		c->groups.v = v;
	}
	return 0;
}

/* Once for all sockets. */
static int group_list(struct collect *c, struct err *e)
{
	if (c->groups.answer)
		return 0;
	c->groups.answer = arena_alloc(c->arena, GROUP_FILTER_SIZE(GROUP_SOURCES));
	if (!c->groups.answer)
		return err_nomem(e);
	if (group_list_file(c, "/proc/self/net/igmp", group_parse_v4, e) < 0)
		return -1;
	return group_list_file(c, "/proc/self/net/igmp6", group_parse_v6, e);
}

static int group_add_sources(struct collect *c, Pb__InetGroup *group, struct err *e)
{
	const struct group_filter *answer = c->groups.answer;

	for (size_t i = 0; i < answer->gf_numsrc; i++) {
		const struct sockaddr_storage *source = &answer->gf_slist[i];
		ProtobufCBinaryData element = { .len = inet_address_size(source),
						.data = arena_memdup(c->arena, source, sizeof(*source)) };

		if (!element.data || !pb_add(c->arena, group, sources, element))
			return err_nomem(e);
	}
	return 0;
}

static int group_add(struct collect *c, const struct inet_group *from, Pb__InetSocket *pb, struct err *e)
{
	Pb__InetGroup *group = pb_new(c->arena, Pb__InetGroup, pb__inet_group__init);
	const struct sockaddr_storage *a = &from->address;
	char name[IF_NAMESIZE];

	if (!if_indextoname(from->interface, name))
		return err_sys(e, errno, "the name of network interface %u", from->interface);
	if (!group || !pb_add(c->arena, pb, groups, group))
		return err_nomem(e);
	group->interface = arena_strdup(c->arena, name);
	group->group = (ProtobufCBinaryData){ inet_address_size(a), arena_memdup(c->arena, a, sizeof(*a)) };
	if (!group->interface || !group->group.data)
		return err_nomem(e);
	if (c->groups.answer->gf_fmode == MCAST_EXCLUDE)
		pb_set(group, exclude, true);
	return group_add_sources(c, group, e);
}

/* Is the socket a member? Then the group is added. */
static int group_try(struct collect *c, int fd, const struct inet_group *group, Pb__InetSocket *pb, struct err *e)
{
	socklen_t size = GROUP_FILTER_SIZE(GROUP_SOURCES);
	struct group_filter *answer = c->groups.answer;

	answer->gf_interface = group->interface;
	answer->gf_group = group->address;
	answer->gf_numsrc = GROUP_SOURCES;
	if (getsockopt(fd, group_level(&group->address), MCAST_MSFILTER, answer, &size) < 0)
		return 0;
	if (answer->gf_numsrc > GROUP_SOURCES)
		return err_set(e, ERR_SYSTEM, 0, "a socket with %u sources in a multicast group", answer->gf_numsrc);
	return group_add(c, group, pb, e);
}

/* An IPv6 socket can be a member of groups of both families; an IPv4 one is none of the others. */
int inet_group_collect(struct collect *c, int fd, Pb__InetSocket *pb, struct err *e)
{
	if (group_list(c, e) < 0)
		return -1;
	for (size_t i = 0; i < c->groups.n; i++)
		if (group_try(c, fd, &c->groups.v[i], pb, e) < 0)
			return -1;
	return 0;
}

/* ---- restore ---- */

static int group_put(int fd, int option, struct group_source_req *request, struct err *e)
{
	struct group_req whole = { .gr_interface = request->gsr_interface, .gr_group = request->gsr_group };
	bool simple = option == MCAST_JOIN_GROUP;
	const void *value = simple ? (const void *)&whole : request;
	socklen_t size = simple ? sizeof(whole) : sizeof(*request);
	char text[INET_ADDRESS_TEXT];

	if (setsockopt(fd, group_level(&request->gsr_group), option, value, size) == 0)
		return 0;
	return err_sys(e, errno, "joining the multicast group %s", inet_address_text(&request->gsr_group, text));
}

static int group_join(int fd, const Pb__InetGroup *group, struct err *e)
{
	struct group_source_req request = { .gsr_interface = if_nametoindex(group->interface) };

	if (inet_address_parse(group->group.data, group->group.len, &request.gsr_group) < 0)
		return err_set(e, ERR_IMAGE, 0, "a multicast group of an unknown kind");
	if (!request.gsr_interface)
		return err_state(e, "E-INTERFACE", 0, "a multicast group of the network interface %s, which is not there",
				 group->interface);
	if (group->exclude && group_put(fd, MCAST_JOIN_GROUP, &request, e) < 0)
		return -1;
	for (size_t i = 0; i < group->n_sources; i++) {
		if (inet_address_parse(group->sources[i].data, group->sources[i].len, &request.gsr_source) < 0)
			return err_set(e, ERR_IMAGE, 0, "a source of a multicast group has an address of an unknown kind");
		if (group_put(fd, group->exclude ? MCAST_BLOCK_SOURCE : MCAST_JOIN_SOURCE_GROUP, &request, e) < 0)
			return -1;
	}
	return 0;
}

int inet_group_restore(int fd, const Pb__InetSocket *pb, struct err *e)
{
	for (size_t i = 0; i < pb->n_groups; i++)
		if (group_join(fd, pb->groups[i], e) < 0)
			return -1;
	return 0;
}
