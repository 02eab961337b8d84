#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Write completions/torpor.bash, _torpor (zsh) and torpor.fish from what `torpor --help` and `torpor COMMAND --help`
say, to be run when commands or options change.

    generate.py TORPOR            write them
    generate.py TORPOR --check    exit 1 when they are out of date
"""

import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# What stands behind an option, or in the place of an argument.
FILES = {"FILE", "CORE"}
WORDS = {"TIER": "auto cap root userns fork"}
WORD_OPTIONS = {"--compress": "auto zstd lz4 none", "--tcp": "close", "--progress": "auto bar plain json none"}
PIDS = {"PID"}
# Ids of messages, which torpor knows itself.
IDS = "torpor help 2>/dev/null | sed -n 's/^  \\(E-[A-Z0-9-]*\\) .*/\\1/p'"


class Option:
    def __init__(self, short, name, value, about):
        self.short, self.name, self.value, self.about = short, name, value, about

    @property
    def words(self):
        return WORD_OPTIONS.get(self.name) or WORDS.get(self.value)


class Command:
    def __init__(self, name, usage, options, about):
        self.name, self.usage, self.options, self.about = name, usage, options, about

    @property
    def takes(self):
        """What its arguments are: files, pids, help or nothing."""
        words = re.sub(r"\[?-[^\]]*\]?", "", self.usage)
        if self.name == "help":
            return "help"
        if re.search(r"\bPID\b", words) and not re.search(r"\bFILE\b", words):
            return "pids"
        if re.search(r"\bFOLDER\b", words):
            return "folders"
        return "files" if re.search(r"\bFILE\b", words) else "nothing"


def run(torpor, *arguments):
    return subprocess.run([torpor, *arguments], check=True, capture_output=True, text=True).stdout


def parse_options(text):
    found = []
    for line in text.splitlines():
        m = re.match(r"\s{2,}(?:-(\w), )?\s*(--[a-z][a-z-]*)(?:[ =](\S+))?\s{2,}(.*)", line)
        if m:
            value = m[3]
            found.append(Option(m[1], m[2], value, re.split(r"[;:(]", m[4])[0].strip().rstrip(".")))
    return found


def about_command(name):
    """The line that its manual page has for apropos(1)."""
    with open(os.path.join(HERE, "..", "doc", "man", f"torpor-{name}.1")) as f:
        return re.search(r"^\.Nd (.*)$", f.read(), re.M)[1]


def read(torpor):
    main = run(torpor, "--help")
    commands = []
    for name in re.findall(r"^  torpor (\w+)", main, re.M):
        text = run(torpor, name, "--help")
        usage = re.search(r"^usage: torpor \w+ ?(.*)$", text, re.M)[1]
        commands.append(Command(name, usage, parse_options(text), about_command(name)))
    parsed = parse_options(main.split("options before", 1)[1])
    given = [o.name for o in parsed]
    for name, short, value, about in (("--verbose", "v", None, "say more"), ("--log", None, "FILE", "append messages to a file"),
                                      ("--help", "h", None, "show the usage")):
        if name not in given:
            parsed.append(Option(short, name, value, about))
    for command in commands:
        command.options = [o for o in command.options if o.name not in [p.name for p in parsed]]
    return commands, parsed


HEAD = "# SPDX-License-Identifier: Apache-2.0\n# Written by completions/generate.py.\n"


def names(options):
    return " ".join(sorted(o.name for o in options))


def bash(commands, parsed):
    out = [HEAD, "_torpor()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= i\n",
           "\tCOMPREPLY=()\n\t[[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD-2]}\n\t[[ $cur == = ]] && cur=\n",
           "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n",
           f"\t\t{'|'.join(c.name for c in commands)}) command=${{COMP_WORDS[i]}}; break ;;\n\t\tesac\n\tdone\n",
           "\tcase $prev in\n"]
    every = {o.name: o for c in commands for o in c.options} | {o.name: o for o in parsed}
    for option in sorted(every.values(), key=lambda o: o.name):
        if option.words:
            out.append(f"\t{option.name}) COMPREPLY=($(compgen -W '{option.words}' -- \"$cur\")); return ;;\n")
        elif option.value in PIDS:
            out.append(f"\t{option.name}) COMPREPLY=($(compgen -W \"$(_torpor_pids)\" -- \"$cur\")); return ;;\n")
        elif option.value in FILES:
            also = f"|-{option.short}" if option.short else ""
            out.append(f"\t{option.name}{also}) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n")
        elif option.value:
            out.append(f"\t{option.name}) return ;;\n")
    out.append("\tesac\n\tif [[ $cur == -* ]]; then\n\t\tcase $command in\n")
    for command in commands:
        out.append(f"\t\t{command.name}) COMPREPLY=($(compgen -W '{names(command.options + parsed)}' -- \"$cur\")) ;;\n")
    out.append(f"\t\t*) COMPREPLY=($(compgen -W '{names(parsed)} --version' -- \"$cur\")) ;;\n\t\tesac\n\t\treturn\n\tfi\n")
    out.append(f"\tcase $command in\n\t'') COMPREPLY=($(compgen -W '{' '.join(c.name for c in commands)}' -- \"$cur\")) ;;\n")
    kinds = {"pids": 'COMPREPLY=($(compgen -W "$(_torpor_pids)" -- "$cur"))',
             "files": 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur"))',
             "folders": 'compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur"))',
             "help": f'COMPREPLY=($(compgen -W "{" ".join(c.name for c in commands)} $({IDS})" -- "$cur"))'}
    for kind, action in kinds.items():
        some = "|".join(c.name for c in commands if c.takes == kind)
        if some:
            out.append(f"\t{some}) {action} ;;\n")
    out.append("\tesac\n}\n\n# Processes of the user.\n_torpor_pids()\n{\n\tlocal p\n\tfor p in /proc/[0-9]*; do\n"
               "\t\t[[ -O $p ]] && echo \"${p#/proc/}\"\n\tdone\n}\n\ncomplete -F _torpor torpor\n")
    return "".join(out)


def zsh_quote(text):
    return text.replace("'", "'\\''").replace("[", "(").replace("]", ")").replace(":", "")


def zsh_option(option):
    action = ""
    if option.words:
        action = f":{option.value or 'how'}:({option.words})"
    elif option.value in PIDS:
        action = ":PID:_pids"
    elif option.value in FILES:
        action = f":{option.value}:_files"
    elif option.value:
        action = f":{zsh_quote(option.value)}: "
    about = zsh_quote(option.about)
    name = option.name + ("=" if option.value else "")
    if option.short:
        return f"'(-{option.short} {option.name})'{{-{option.short},{name}}}'[{about}]{action}'"
    return f"'{name}[{about}]{action}'"


def zsh(commands, parsed):
    kinds = {"pids": "'*:PID:_pids'", "files": "'*:image:_files'", "folders": "'*:folder:_files -/'", "nothing": "",
             "help": f"\"*:topic:({' '.join(c.name for c in commands)} $({IDS}))\""}
    out = ["#compdef torpor\n", HEAD, "\nlocal -a commands global\ncommands=(\n"]
    out += [f"\t'{c.name}:{zsh_quote(c.about)}'\n" for c in commands]
    out.append(")\nglobal=(\n")
    out += [f"\t{zsh_option(o)}\n" for o in parsed]
    out.append(")\n\nif (( CURRENT == 2 )); then\n\t_describe command commands\n\t_arguments $global '--version[show the version]'\n"
               "\treturn\nfi\n\nlocal command=$words[2]\nshift words\n(( CURRENT-- ))\ncase $command in\n")
    for command in commands:
        lines = [zsh_option(o) for o in command.options] + [kinds[command.takes]]
        out.append(f"{command.name})\n\t_arguments $global \\\n\t\t" + " \\\n\t\t".join(filter(None, lines)) + "\n\t;;\n")
    out.append("esac\n")
    return "".join(out)


def fish_quote(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish_option(condition, option):
    line = f"complete -c torpor {condition}-l {option.name[2:]}"
    if option.short:
        line += f" -s {option.short}"
    if option.words:
        line += f" -x -a {fish_quote(option.words)}"
    elif option.value in PIDS:
        line += " -x -a '(__fish_complete_pids)'"
    elif option.value in FILES:
        line += " -r -F"
    elif option.value:
        line += " -x"
    return line + f" -d {fish_quote(option.about)}\n"


def fish(commands, parsed):
    out = [HEAD, "complete -c torpor -f\n"]
    out += [fish_option("", o) for o in parsed]
    out.append("complete -c torpor -n __fish_use_subcommand -l version -d 'show the version'\n")
    for command in commands:
        seen = f"-n '__fish_seen_subcommand_from {command.name}' "
        out.append(f"complete -c torpor -n __fish_use_subcommand -a {command.name} -d {fish_quote(command.about)}\n")
        if command.takes == "pids":
            out.append(f"complete -c torpor {seen}-a '(__fish_complete_pids)'\n")
        elif command.takes in ("files", "folders"):
            out.append(f"complete -c torpor {seen}-F\n")
        elif command.takes == "help":
            out.append(f"complete -c torpor {seen}-a \"{' '.join(c.name for c in commands)} ({IDS})\"\n")
        out += [fish_option(seen, o) for o in command.options]
    return "".join(out)


def main():
    torpor = os.path.abspath(sys.argv[1])
    about = read(torpor)
    for name, write in ("torpor.bash", bash), ("_torpor", zsh), ("torpor.fish", fish):
        path, text = os.path.join(HERE, name), write(*about)
        if "--check" not in sys.argv:
            with open(path, "w") as f:
                f.write(text)
        elif not os.path.exists(path) or open(path).read() != text:
            sys.exit(f"completions/{name} is out of date: run completions/generate.py build/torpor")


main()
