# SPDX-License-Identifier: Apache-2.0
# Written by completions/generate.py.
_torpor()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= i
	COMPREPLY=()
	[[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD-2]}
	[[ $cur == = ]] && cur=
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		dump|restore|run|check|inspect|verify|squash|diff|core|ps|untrack|help) command=${COMP_WORDS[i]}; break ;;
		esac
	done
	case $prev in
	--compress) COMPREPLY=($(compgen -W 'auto zstd lz4 none' -- "$cur")); return ;;
	--fd) return ;;
	--fork-limit) return ;;
	--html) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
	--log) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
	--name) return ;;
	--output|-o) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
	--parent) return ;;
	--pause) return ;;
	--pidfile) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
	--progress) COMPREPLY=($(compgen -W 'auto bar plain json none' -- "$cur")); return ;;
	--task) COMPREPLY=($(compgen -W "$(_torpor_pids)" -- "$cur")); return ;;
	--tcp) COMPREPLY=($(compgen -W 'close' -- "$cur")); return ;;
	--tier) COMPREPLY=($(compgen -W 'auto cap root userns fork' -- "$cur")); return ;;
	--timeout) return ;;
	esac
	if [[ $cur == -* ]]; then
		case $command in
		dump) COMPREPLY=($(compgen -W '--compress --external --help --keep-running --log --no-sync --output --parent --pause --progress --quiet --tcp --timeout --track --verbose' -- "$cur")) ;;
		restore) COMPREPLY=($(compgen -W '--allow-changed-files --allow-foreign-image --detach --explain --fd --fork-limit --help --log --pidfile --progress --quiet --tier --timeout --verbose' -- "$cur")) ;;
		run) COMPREPLY=($(compgen -W '--help --log --name --progress --quiet --verbose' -- "$cur")) ;;
		check) COMPREPLY=($(compgen -W '--help --json --log --progress --quiet --verbose' -- "$cur")) ;;
		inspect) COMPREPLY=($(compgen -W '--fds --help --html --json --log --maps --progress --quiet --task --threads --verbose' -- "$cur")) ;;
		verify) COMPREPLY=($(compgen -W '--help --log --progress --quiet --verbose' -- "$cur")) ;;
		squash) COMPREPLY=($(compgen -W '--compress --help --log --no-sync --output --progress --quiet --verbose' -- "$cur")) ;;
		diff) COMPREPLY=($(compgen -W '--exit-code --help --log --progress --quiet --verbose' -- "$cur")) ;;
		core) COMPREPLY=($(compgen -W '--help --log --output --progress --quiet --task --verbose' -- "$cur")) ;;
		ps) COMPREPLY=($(compgen -W '--all --help --json --log --progress --quiet --verbose' -- "$cur")) ;;
		untrack) COMPREPLY=($(compgen -W '--help --log --progress --quiet --verbose' -- "$cur")) ;;
		help) COMPREPLY=($(compgen -W '--help --log --progress --quiet --verbose' -- "$cur")) ;;
		*) COMPREPLY=($(compgen -W '--help --log --progress --quiet --verbose --version' -- "$cur")) ;;
		esac
		return
	fi
	case $command in
	'') COMPREPLY=($(compgen -W 'dump restore run check inspect verify squash diff core ps untrack help' -- "$cur")) ;;
	dump|check|untrack) COMPREPLY=($(compgen -W "$(_torpor_pids)" -- "$cur")) ;;
	restore|inspect|verify|squash|diff|core) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
	ps) compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")) ;;
	help) COMPREPLY=($(compgen -W "dump restore run check inspect verify squash diff core ps untrack help $(torpor help 2>/dev/null | sed -n 's/^  \(E-[A-Z0-9-]*\) .*/\1/p')" -- "$cur")) ;;
	esac
}

# Processes of the user.
_torpor_pids()
{
	local p
	for p in /proc/[0-9]*; do
		[[ -O $p ]] && echo "${p#/proc/}"
	done
}

complete -F _torpor torpor
