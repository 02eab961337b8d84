/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The kernel has no list of the groups of a socket. But it lists those of all
 * interfaces, and a socket can be asked for its sources in a group, which fails
 * if it is no member of it (MCAST_MSFILTER).
 */

#include "kinds/inet_group.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "kinds/inet_address.h"
#include "kinds/kind.h"
#include "util/fd.h"

enum { GROUP_SOURCES = 512 }; /* how many of them are asked for; the kernel permits few (igmp_max_msf) */

static int group_level(const struct sockaddr_storage *group)
{
	return group->ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
}

/* ---- dump ---- */

struct group_search {
	struct collect *c;
	int fd;
	Pb__InetSocket *pb;
	struct group_filter *answer; /* with room for GROUP_SOURCES */
};

static int group_add_sources(struct group_search *s, Pb__InetGroup *group, struct err *e)
{
	for (size_t i = 0; i < s->answer->gf_numsrc; i++) {
		const struct sockaddr_storage *source = &s->answer->gf_slist[i];
		ProtobufCBinaryData element = { .len = inet_address_size(source),
						.data = arena_memdup(s->c->arena, source, sizeof(*source)) };

		if (!element.data || !pb_add(s->c->arena, group, sources, element))
			return err_nomem(e);
	}
	return 0;
}

static int group_add(struct group_search *s, const struct sockaddr_storage *a, struct err *e)
{
	Pb__InetGroup *group = pb_new(s->c->arena, Pb__InetGroup, pb__inet_group__init);
	char name[IF_NAMESIZE];

	if (!if_indextoname(s->answer->gf_interface, name))
		return err_sys(e, errno, "the name of network interface %u", s->answer->gf_interface);
	if (!group || !pb_add(s->c->arena, s->pb, groups, group))
		return err_nomem(e);
	group->interface = arena_strdup(s->c->arena, name);
	group->group = (ProtobufCBinaryData){ inet_address_size(a), arena_memdup(s->c->arena, a, sizeof(*a)) };
	if (!group->interface || !group->group.data)
		return err_nomem(e);
	if (s->answer->gf_fmode == MCAST_EXCLUDE)
		pb_set(group, exclude, true);
	return group_add_sources(s, group, e);
}

/* Is the socket a member? Then it is added. */
static int group_try(struct group_search *s, unsigned interface, const struct sockaddr_storage *group, struct err *e)
{
	socklen_t size = GROUP_FILTER_SIZE(GROUP_SOURCES);

	s->answer->gf_interface = interface;
	s->answer->gf_group = *group;
	s->answer->gf_numsrc = GROUP_SOURCES;
	if (getsockopt(s->fd, group_level(group), MCAST_MSFILTER, s->answer, &size) < 0)
		return 0;
	if (s->answer->gf_numsrc > GROUP_SOURCES)
		return err_set(e, ERR_SYSTEM, 0, "a socket with %u sources in a multicast group", s->answer->gf_numsrc);
	return group_add(s, group, e);
}

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

static int group_search_file(struct group_search *s, const char *path,
			     bool (*parse)(const char *, unsigned *, struct sockaddr_storage *), struct err *e)
{
	cleanup_close int file = open(path, O_RDONLY | O_CLOEXEC);
	struct sockaddr_storage group;
	unsigned interface = 0;
	char *text, *next;
	int r;

	if (file < 0) /* no IPv6 */
		return 0;
	r = fd_read_all(file, s->c->arena, &text, NULL);
	if (r < 0)
		return err_sys(e, r, "reading %s", path);
	for (char *line = text; *line; line = next) {
		next = strchrnul(line, '\n');
		if (*next)
			*next++ = '\0';
		if (parse(line, &interface, &group) && group_try(s, interface, &group, e) < 0)
			return -1;
	}
	return 0;
}

/* An IPv6 socket can be a member of groups of both families. */
int inet_group_collect(struct collect *c, int fd, Pb__InetSocket *pb, struct err *e)
{
	struct group_search s = { .c = c, .fd = fd, .pb = pb };

	s.answer = arena_alloc(c->arena, GROUP_FILTER_SIZE(GROUP_SOURCES));
	if (!s.answer)
		return err_nomem(e);
	if (group_search_file(&s, "/proc/self/net/igmp", group_parse_v4, e) < 0)
		return -1;
	return pb->family == AF_INET6 ? group_search_file(&s, "/proc/self/net/igmp6", group_parse_v6, e) : 0;
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
