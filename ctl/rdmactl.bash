# bash completion for rdmactl

_rdmactl_commands='list stats limit fallback peers reload top doctor run version help'
_rdmactl_limits='sessions_per_user= ring_memory_per_user= ring_memory= rate_per_session= clients_per_user= offers_per_user='

# Sets COMPREPLY to those of the words in $1 that begin with the current one.
_rdmactl_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "${COMP_WORDS[COMP_CWORD]}")
    # A key is completed up to its "=", and the value is typed behind that.
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}

# The index of the command in COMP_WORDS, or nothing.
_rdmactl_command_index() {
    local i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --runtime-dir) ((i++)) ;;
        -*) ;;
        *) echo "$i"; return ;;
        esac
    done
}

# Completes the program that `run` starts, and its arguments as if it stood alone.
_rdmactl_run() {
    local i
    for ((i = $1 + 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --runtime-dir) ((i++)) ;;
        --) ((i++)); break ;;
        -*) ;;
        *) break ;;
        esac
    done
    if ((i < COMP_CWORD)) && declare -F _command_offset >/dev/null; then
        _command_offset "$i"
    elif ((i < COMP_CWORD)); then
        mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
    elif [[ ${COMP_WORDS[COMP_CWORD]} == -* && ${COMP_WORDS[COMP_CWORD - 1]} != -- ]]; then
        _rdmactl_words '--debug --json --runtime-dir --help --'
    else
        mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    fi
}

_rdmactl() {
    local index word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    index=$(_rdmactl_command_index)
    COMPREPLY=()
    if [[ $before == --runtime-dir ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$word")
        return
    fi
    if [[ -z $index ]]; then
        _rdmactl_words "$_rdmactl_commands --runtime-dir --json --help --version"
        return
    fi
    case ${COMP_WORDS[index]} in
    list)
        case $before in
        --pid) _rdmactl_words "$(cd /proc && echo [0-9]*)" ;;
        --port) ;;
        *) _rdmactl_words '--pid --port --json --runtime-dir --help' ;;
        esac ;;
    peers) _rdmactl_words '--connect --json --runtime-dir --help' ;;
    fallback) _rdmactl_words '--all --json --runtime-dir --help' ;;
    limit) _rdmactl_words "$_rdmactl_limits --json --runtime-dir --help" ;;
    top)
        case $before in
        -d | --delay | -n | --count) ;;
        *) _rdmactl_words '--delay --count --json --runtime-dir --help' ;;
        esac ;;
    doctor)
        if [[ $word == -* ]]; then
            _rdmactl_words '--json --runtime-dir --help'
        else
            mapfile -t COMPREPLY < <(compgen -c -- "$word")
        fi ;;
    run) _rdmactl_run "$index" ;;
    help) _rdmactl_words "$_rdmactl_commands" ;;
    *) _rdmactl_words '--json --runtime-dir --help' ;;
    esac
}

complete -F _rdmactl rdmactl
