# SPDX-License-Identifier: Apache-2.0
# Counts in a loop that starts a program in every round.
i=0
while [ ! -e stop ]; do
	i=$((i + 1))
	echo "loop $i" >>steps
	sleep 0.01
done
[ "$i" -gt 0 ] && echo done >>steps
