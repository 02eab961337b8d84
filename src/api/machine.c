/* SPDX-License-Identifier: Apache-2.0 */

/* torpor_machine_try(): what core/probe.c tries, in a helper, and what follows from it. */

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "api/api.h"
#include "api/helper.h"
#include "core/probe.h"
#include "util/privilege.h"

struct machine {
	struct torpor_machine public; /* first: the handle is its address */
	struct utsname uname;
	struct probe_outcome outcomes[PROBES_MAX];
	struct torpor_probe probes[PROBES_MAX];
	struct torpor_tier_state tiers[PROBE_TIERS];
};

/* ---- trying ---- */

static int machine_work(int link, void *data, struct err *e)
{
	struct machine *m = data;

	for (size_t i = 0; i < n_probes; i++) {
		if (probe_try(&probes[i], &m->outcomes[i], e) < 0)
			return -1;
		helper_say(link, HELPER_NEWS, (int32_t)i, 0, 0, &m->outcomes[i], sizeof(m->outcomes[i]));
	}
	return 0;
}

static void machine_hear(int link, void *data, const struct helper_message *message, const char *text, size_t size)
{
	struct machine *m = data;

	(void)link;
	if (message->number >= 0 && (size_t)message->number < n_probes && size == sizeof(m->outcomes[0]))
		memcpy(&m->outcomes[message->number], text, size);
}

/* ---- what follows ---- */

static void machine_fill_probes(struct machine *m)
{
	static const char *const uses[PROBE_USES] = { "dump", "restore", "tier", "optional", "planned" };

	for (size_t i = 0; i < n_probes; i++) {
		const struct probe *p = &probes[i];

		m->probes[i] = (struct torpor_probe){ .id = p->id, .what = p->what, .purpose = p->purpose,
						      .needed_by = uses[p->use], .tiers = p->tiers,
						      .number = m->outcomes[i].number, .detail = m->outcomes[i].detail,
						      .help = probe_help(p, &m->outcomes[i]) };
	}
}

static void machine_fill_tiers(struct machine *m)
{
	struct probe_tier tiers[PROBE_TIERS];

	probe_tiers(m->outcomes, tiers);
	for (size_t i = PROBE_TIERS; i-- > 0;) {
		const struct probe_tier *t = &tiers[i];

		m->tiers[i] = (struct torpor_tier_state){ .name = t->name, .about = t->about, .implemented = t->implemented,
							  .works = t->works, .why_not = t->why_not,
							  .missing = t->missing ? &m->probes[t->missing - probes] : NULL };
		if (t->works)
			m->public.restore_tier = t->name;
	}
}

static void machine_fill(struct machine *m)
{
	struct torpor_machine *p = &m->public;

	uname(&m->uname);
	p->kernel = m->uname.release;
	p->arch = m->uname.machine;
	p->uid = geteuid();
	p->capability = privilege_why_not();
	p->probes = n_probes;
	p->tiers = PROBE_TIERS;
	p->dump = probe_dump_works(m->outcomes);
	machine_fill_probes(m);
	machine_fill_tiers(m);
}

int torpor_machine_try(struct torpor_machine **ret, struct torpor_error **error)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct torpor_options o;
	struct helper_job job = { .work = machine_work, .hear = machine_hear, .data = m, .options = &o };
	struct err e = ERR_INIT;

	api_options_default(&o);
	if ((m ? helper_run(&job, NULL, NULL, &e) : err_nomem(&e)) < 0) {
		free(m);
		return api_fail(error, &e);
	}
	machine_fill(m);
	*ret = &m->public;
	return 0;
}

const struct torpor_probe *torpor_machine_probe(const struct torpor_machine *machine, size_t i)
{
	return i < n_probes ? &((const struct machine *)machine)->probes[i] : NULL;
}

const struct torpor_tier_state *torpor_machine_tier(const struct torpor_machine *machine, size_t i)
{
	return i < PROBE_TIERS ? &((const struct machine *)machine)->tiers[i] : NULL;
}

void torpor_machine_free(struct torpor_machine *machine)
{
	free(machine);
}
