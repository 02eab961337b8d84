# SPDX-License-Identifier: Apache-2.0
# Counts with bash alone; the pauses are reads that time out on a FIFO it holds open itself.
fifo=pause.$$
mkfifo "$fifo"
exec 9<>"$fifo"
declare -A seen
i=0
trap 'echo "bad signal" >>steps' USR1
while [ ! -e stop ]; do
	i=$((i + 1))
	seen[$i]=$((i * i))
	echo "loop $i" >>steps
	read -r -t 0.005 -u 9 _
	j=$((RANDOM % i + 1))
	[ "${seen[$j]}" -eq $((j * j)) ] || echo "bad value of $j" >>steps
done
[ "${#seen[@]}" -eq "$i" ] && echo done >>steps
