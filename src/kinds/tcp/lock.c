/* SPDX-License-Identifier: Apache-2.0 */
#include "kinds/tcp/lock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "util/arena.h"
#include "util/err.h"
#include "util/fd.h"

static const char lock_prefix[] = "torpor-";

/* The kernel takes some milliseconds for each batch, however long it is. */
enum { LOCK_AT_ONCE = 64, LOCK_RULE_MAX = 1024, LOCK_BUFFER = LOCK_AT_ONCE * 2 * LOCK_RULE_MAX };
enum { LOCK_PRIORITY = -300 }; /* before addresses are translated */

/* ---- a batch of messages ---- */

struct batch {
	_Alignas(NLMSG_ALIGNTO) char data[LOCK_BUFFER];
	size_t used;
	struct nlmsghdr *message; /* the last one */
};

static void *batch_put(struct batch *b, size_t size)
{
	void *at = b->data + b->used;

	b->used += NLMSG_ALIGN(size); /* all is of known size, and fits */
	if (b->message)
		b->message->nlmsg_len = (uint32_t)(b->data + b->used - (char *)b->message);
	return at;
}

static void batch_begin_message(struct batch *b, unsigned type, unsigned flags, uint8_t family, uint16_t resource)
{
	struct nlmsghdr *h = batch_put(b, 0);
	struct nfgenmsg *g;

	b->message = h;
	batch_put(b, sizeof(*h));
	g = batch_put(b, sizeof(*g));
	h->nlmsg_type = (uint16_t)type;
	h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	g->nfgen_family = family;
	g->res_id = htons(resource);
}

static void batch_message(struct batch *b, unsigned type, unsigned flags)
{
	batch_begin_message(b, NFNL_SUBSYS_NFTABLES << 8 | type, flags, NFPROTO_INET, 0);
}

static struct nlattr *batch_nest(struct batch *b, unsigned type)
{
	struct nlattr *a = batch_put(b, sizeof(*a));

	a->nla_type = (uint16_t)(type | NLA_F_NESTED);
	return a;
}

static void batch_end_nest(struct batch *b, struct nlattr *a)
{
	a->nla_len = (uint16_t)(b->data + b->used - (char *)a);
}

static void batch_bytes(struct batch *b, unsigned type, const void *bytes, size_t size)
{
	struct nlattr *a = batch_put(b, NLA_HDRLEN + size);

	a->nla_type = (uint16_t)type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + size);
	memcpy(a + 1, bytes, size);
}

static void batch_string(struct batch *b, unsigned type, const char *s)
{
	batch_bytes(b, type, s, strlen(s) + 1);
}

static void batch_number(struct batch *b, unsigned type, uint32_t number)
{
	batch_bytes(b, type, &(uint32_t){ htonl(number) }, sizeof(number));
}

/* What the kernel says of the batch: it is taken as a whole, or not at all. */
static int batch_answer(int fd)
{
	_Alignas(NLMSG_ALIGNTO) char answer[4096];
	ssize_t n = recv(fd, answer, sizeof(answer), 0);
	const struct nlmsghdr *h = (const void *)answer;

	if (n < 0)
		return -errno;
	if (!NLMSG_OK(h, (size_t)n) || h->nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
}

static void batch_begin(struct batch *b)
{
	*b = (struct batch){ .used = 0 };
	batch_begin_message(b, NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES);
}

/* Every message but the last of a batch is answered only when it fails. */
static int batch_send(struct batch *b, int fd)
{
	b->message->nlmsg_flags |= NLM_F_ACK;
	batch_begin_message(b, NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES);
	return send(fd, b->data, b->used, 0) < 0 ? -errno : batch_answer(fd);
}

/* ---- tables and rules ---- */

static void lock_put_chain(struct batch *b, const char *table, const char *name, uint32_t hook)
{
	struct nlattr *nest;

	batch_message(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
	batch_string(b, NFTA_CHAIN_TABLE, table);
	batch_string(b, NFTA_CHAIN_NAME, name);
	batch_string(b, NFTA_CHAIN_TYPE, "filter");
	nest = batch_nest(b, NFTA_CHAIN_HOOK);
	batch_number(b, NFTA_HOOK_HOOKNUM, hook);
	batch_number(b, NFTA_HOOK_PRIORITY, (uint32_t)LOCK_PRIORITY);
	batch_end_nest(b, nest);
}

static int lock_make_table(int fd, const char *table, uint32_t flags)
{
	struct batch b;

	batch_begin(&b);
	batch_message(&b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
	batch_string(&b, NFTA_TABLE_NAME, table);
	batch_number(&b, NFTA_TABLE_FLAGS, flags);
	lock_put_chain(&b, table, "in", NF_INET_LOCAL_IN);
	lock_put_chain(&b, table, "out", NF_INET_LOCAL_OUT);
	return batch_send(&b, fd);
}

/* One expression of a rule, between these two. */
struct expression {
	struct nlattr *element, *data;
};

static struct expression lock_begin_expression(struct batch *b, const char *name)
{
	struct expression x = { .element = batch_nest(b, NFTA_LIST_ELEM) };

	batch_string(b, NFTA_EXPR_NAME, name);
	x.data = batch_nest(b, NFTA_EXPR_DATA);
	return x;
}

static void lock_end_expression(struct batch *b, const struct expression *x)
{
	batch_end_nest(b, x->data);
	batch_end_nest(b, x->element);
}

static void lock_put_meta(struct batch *b, uint32_t key)
{
	struct expression x = lock_begin_expression(b, "meta");

	batch_number(b, NFTA_META_DREG, NFT_REG32_00);
	batch_number(b, NFTA_META_KEY, key);
	lock_end_expression(b, &x);
}

static void lock_put_payload(struct batch *b, uint32_t base, uint32_t offset, size_t size)
{
	struct expression x = lock_begin_expression(b, "payload");

	batch_number(b, NFTA_PAYLOAD_DREG, NFT_REG32_00);
	batch_number(b, NFTA_PAYLOAD_BASE, base);
	batch_number(b, NFTA_PAYLOAD_OFFSET, offset);
	batch_number(b, NFTA_PAYLOAD_LEN, (uint32_t)size);
	lock_end_expression(b, &x);
}

/* Go on with the rule if what was loaded is, or is not, this. */
static void lock_put_compare(struct batch *b, uint32_t how, const void *bytes, size_t size)
{
	struct expression x = lock_begin_expression(b, "cmp");
	struct nlattr *nest;

	batch_number(b, NFTA_CMP_SREG, NFT_REG32_00);
	batch_number(b, NFTA_CMP_OP, how);
	nest = batch_nest(b, NFTA_CMP_DATA);
	batch_bytes(b, NFTA_DATA_VALUE, bytes, size);
	batch_end_nest(b, nest);
	lock_end_expression(b, &x);
}

static void lock_put_drop(struct batch *b)
{
	struct expression x = lock_begin_expression(b, "immediate");
	struct nlattr *data, *verdict;

	batch_number(b, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	data = batch_nest(b, NFTA_IMMEDIATE_DATA);
	verdict = batch_nest(b, NFTA_DATA_VERDICT);
	batch_number(b, NFTA_VERDICT_CODE, NF_DROP);
	batch_end_nest(b, verdict);
	batch_end_nest(b, data);
	lock_end_expression(b, &x);
}

/* As they stand in the header of a packet. */
static void lock_put_address(struct batch *b, const struct sockaddr_storage *a, bool six, bool destination)
{
	const struct in6_addr address = inet_mapped(a);
	uint32_t size = six ? 16 : 4;

	lock_put_payload(b, NFT_PAYLOAD_NETWORK_HEADER, (six ? 8 : 12) + (destination ? size : 0), size);
	lock_put_compare(b, NFT_CMP_EQ, &address.s6_addr[16 - size], size);
}

static void lock_put_rule(struct batch *b, const char *table, const char *chain, const struct sockaddr_storage *from,
			  const struct sockaddr_storage *to)
{
	const uint16_t ports[2] = { htons((uint16_t)inet_port(from)), htons((uint16_t)inet_port(to)) };
	const uint32_t mark = TCP_LOCK_MARK;
	const struct in6_addr address = inet_mapped(from);
	bool six = !IN6_IS_ADDR_V4MAPPED(&address);
	struct nlattr *nest;

	batch_message(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
	batch_string(b, NFTA_RULE_TABLE, table);
	batch_string(b, NFTA_RULE_CHAIN, chain);
	nest = batch_nest(b, NFTA_RULE_EXPRESSIONS);
	lock_put_meta(b, NFT_META_NFPROTO);
	lock_put_compare(b, NFT_CMP_EQ, &(uint8_t){ six ? NFPROTO_IPV6 : NFPROTO_IPV4 }, 1);
	lock_put_meta(b, NFT_META_L4PROTO);
	lock_put_compare(b, NFT_CMP_EQ, &(uint8_t){ IPPROTO_TCP }, 1);
	lock_put_payload(b, NFT_PAYLOAD_TRANSPORT_HEADER, 0, sizeof(ports));
	lock_put_compare(b, NFT_CMP_EQ, ports, sizeof(ports));
	lock_put_address(b, from, six, false);
	lock_put_address(b, to, six, true);
	lock_put_meta(b, NFT_META_MARK);
	lock_put_compare(b, NFT_CMP_NEQ, &mark, sizeof(mark));
	lock_put_drop(b);
	batch_end_nest(b, nest);
}

static int lock_put_ends(int fd, const char *table, const struct inet_end *ends, size_t n)
{
	struct batch b;

	batch_begin(&b);
	for (size_t i = 0; i < n; i++) {
		lock_put_rule(&b, table, "in", &ends[i].remote, &ends[i].local);
		lock_put_rule(&b, table, "out", &ends[i].local, &ends[i].remote);
	}
	return batch_send(&b, fd);
}

static int lock_make(int fd, const char *table, uint32_t flags, const struct inet_end *ends, size_t n)
{
	int r = lock_make_table(fd, table, flags);

	for (size_t i = 0; r == 0 && i < n; i += LOCK_AT_ONCE)
		r = lock_put_ends(fd, table, ends + i, n - i < LOCK_AT_ONCE ? n - i : LOCK_AT_ONCE);
	return r;
}

/* ---- the lock ---- */

static int lock_connect(struct err *e)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);

	return fd < 0 ? err_sys(e, errno, "opening nf_tables") : fd;
}

int tcp_lock_begin(struct tcp_lock *lock, struct arena *arena, const struct inet_end *ends, size_t n, struct err *e)
{
	cleanup_close int fd = lock_connect(e);
	const char *owned;
	uint64_t number;
	int r;

	if (fd < 0)
		return -1;
	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return err_sys(e, errno, "getrandom");
	*lock = (struct tcp_lock){ .fd = -1, .ends = ends, .n = n };
	lock->name = arena_printf(arena, "%s%016lx", lock_prefix, number);
	owned = arena_printf(arena, "%s-dump", lock->name);
	if (!lock->name || !owned)
		return err_nomem(e);
	r = lock_make(fd, owned, NFT_TABLE_F_OWNER, ends, n);
	if (r < 0)
		return err_sys(e, r, "locking TCP connections: a table of nf_tables that has an owner");
	lock->fd = fd_take(&fd);
	return 0;
}

int tcp_lock_persist(const struct tcp_lock *lock, struct err *e)
{
	int r = lock_make(lock->fd, lock->name, 0, lock->ends, lock->n);

	return r < 0 ? err_sys(e, r, "locking TCP connections with nf_tables") : 0;
}

int tcp_lock_open(const char *name, struct err *e)
{
	cleanup_close int fd = lock_connect(e);
	struct batch b;
	int r;

	if (fd < 0)
		return -1;
	if (strncmp(name, lock_prefix, strlen(lock_prefix)) != 0 || strlen(name) >= NFT_TABLE_MAXNAMELEN)
		return err_set(e, ERR_IMAGE, 0, "a TCP connection is locked by a table that is not torpor's");
	batch_begin(&b);
	batch_message(&b, NFT_MSG_DELTABLE, 0);
	batch_string(&b, NFTA_TABLE_NAME, name);
	r = batch_send(&b, fd);
	return r < 0 && r != -ENOENT ? err_sys(e, r, "unlocking TCP connections: table %s of nf_tables", name) : 0;
}
