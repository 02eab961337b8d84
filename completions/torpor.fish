# SPDX-License-Identifier: Apache-2.0
# Written by completions/generate.py.
complete -c torpor -f
complete -c torpor -l quiet -s q -d 'say nothing but errors and what was asked for'
complete -c torpor -l progress -x -a 'auto bar plain json none' -d 'how to show it'
complete -c torpor -l log -r -F -d 'append messages to FILE instead of standard error'
complete -c torpor -l verbose -s v -d 'say more'
complete -c torpor -l help -s h -d 'show the usage'
complete -c torpor -n __fish_use_subcommand -l version -d 'show the version'
complete -c torpor -n __fish_use_subcommand -a dump -d 'save a process tree in an image'
complete -c torpor -n '__fish_seen_subcommand_from dump' -a '(__fish_complete_pids)'
complete -c torpor -n '__fish_seen_subcommand_from dump' -l output -s o -r -F -d 'the image'
complete -c torpor -n '__fish_seen_subcommand_from dump' -l keep-running -s k -d 'let the processes run on afterwards'
complete -c torpor -n '__fish_seen_subcommand_from dump' -l external -d 'let go of pipes and unix sockets that lead to other programs'
complete -c torpor -n '__fish_seen_subcommand_from dump' -l no-sync -d 'do not wait until the image is on disk'
complete -c torpor -n '__fish_seen_subcommand_from dump' -l tcp -x -a 'close' -d 'let go of TCP connections that lead to other programs'
complete -c torpor -n '__fish_seen_subcommand_from dump' -l timeout -x -d 'for a process that does not stop'
complete -c torpor -n __fish_use_subcommand -a restore -d 'make saved processes again'
complete -c torpor -n '__fish_seen_subcommand_from restore' -F
complete -c torpor -n '__fish_seen_subcommand_from restore' -l explain -d 'make nothing'
complete -c torpor -n '__fish_seen_subcommand_from restore' -l detach -s d -d 'return when the processes run again, and print the root\'s PID'
complete -c torpor -n '__fish_seen_subcommand_from restore' -l pidfile -r -F -d 'write the root\'s PID to FILE'
complete -c torpor -n '__fish_seen_subcommand_from restore' -l fd -x -d 'join stream N'
complete -c torpor -n '__fish_seen_subcommand_from restore' -l tier -x -a 'auto cap root userns fork' -d 'cap, root, userns, fork'
complete -c torpor -n '__fish_seen_subcommand_from restore' -l fork-limit -x -d 'tier fork'
complete -c torpor -n '__fish_seen_subcommand_from restore' -l allow-changed-files -d 'accept files that changed since the dump'
complete -c torpor -n '__fish_seen_subcommand_from restore' -l allow-foreign-image -d 'accept an image that another user could have written'
complete -c torpor -n __fish_use_subcommand -a run -d 'run a program in a PID namespace of its own'
complete -c torpor -n '__fish_seen_subcommand_from run' -l name -s n -x -d 'torpor dump NAME finds the program, also after it was restored'
complete -c torpor -n __fish_use_subcommand -a check -d 'find out what can be saved, and what is missing'
complete -c torpor -n '__fish_seen_subcommand_from check' -a '(__fish_complete_pids)'
complete -c torpor -n '__fish_seen_subcommand_from check' -l json -d 'for programs'
complete -c torpor -n __fish_use_subcommand -a inspect -d 'show what is in an image'
complete -c torpor -n '__fish_seen_subcommand_from inspect' -F
complete -c torpor -n '__fish_seen_subcommand_from inspect' -l task -s t -x -a '(__fish_complete_pids)' -d 'only this process'
complete -c torpor -n '__fish_seen_subcommand_from inspect' -l threads -d 'the processes with their threads'
complete -c torpor -n '__fish_seen_subcommand_from inspect' -l fds -d 'all file descriptors'
complete -c torpor -n '__fish_seen_subcommand_from inspect' -l maps -d 'all mappings'
complete -c torpor -n '__fish_seen_subcommand_from inspect' -l json -d 'everything, for programs'
complete -c torpor -n '__fish_seen_subcommand_from inspect' -l html -r -F -d 'everything, as one page to look at in a browser'
complete -c torpor -n __fish_use_subcommand -a verify -d 'check an image'
complete -c torpor -n '__fish_seen_subcommand_from verify' -F
complete -c torpor -n __fish_use_subcommand -a diff -d 'show what changed between two images of a program'
complete -c torpor -n '__fish_seen_subcommand_from diff' -F
complete -c torpor -n __fish_use_subcommand -a core -d 'write a saved process as a core file'
complete -c torpor -n '__fish_seen_subcommand_from core' -F
complete -c torpor -n '__fish_seen_subcommand_from core' -l task -s t -x -a '(__fish_complete_pids)' -d 'which process of the image'
complete -c torpor -n '__fish_seen_subcommand_from core' -l output -s o -r -F -d 'the core file'
complete -c torpor -n __fish_use_subcommand -a ps -d 'list processes that could be saved, and images'
complete -c torpor -n '__fish_seen_subcommand_from ps' -F
complete -c torpor -n '__fish_seen_subcommand_from ps' -l all -s a -d 'the processes of all users'
complete -c torpor -n '__fish_seen_subcommand_from ps' -l json -d 'for programs'
complete -c torpor -n __fish_use_subcommand -a help -d 'explain a command, or the id of a message'
complete -c torpor -n '__fish_seen_subcommand_from help' -a "dump restore run check inspect verify diff core ps help (torpor help 2>/dev/null | sed -n 's/^  \(E-[A-Z0-9-]*\) .*/\1/p')"
