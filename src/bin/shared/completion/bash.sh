
# Transports, stores and keys, which are beginnings of words; everything else is completed by _PROGRAM.
_PROGRAM_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" word previous choices=""
    word="${line##*[[:space:]]}"
    previous="${line%"$word"}"
    previous="${previous%"${previous##*[![:space:]]}"}"
    previous="${previous##*[[:space:]]}"
    case "$previous" in
        --store) choices="STORES" ;;
        --key | --to) choices="KEYS" ;;
        --salt-key) choices="aws-kms://" ;;
        --source) choices="IMAGES" ;;
        --base | --heal) choices="MANIFESTS" ;;
        -*) ;;
        *)
            case "${COMP_WORDS[1]}" in
                convert) choices="IMAGES" ;;
                COMMANDS) choices="MANIFESTS" ;;
            esac
            ;;
    esac
    case "$word" in
        -*) ;;
        docker-archive:* | oci:* | oci-archive:* | dir:* | tar:* | file:* | age:*)
            # A colon separates words, so that only the path is replaced.
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "${word#*:}")
            return
            ;;
        *://*)
            COMPREPLY=()
            compopt +o default +o bashdefault 2>/dev/null
            return
            ;;
        *)
            if [[ -n "$choices" ]]; then
                compopt -o filenames 2>/dev/null
                mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$word"; compgen -f -- "$word")
                [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[:/] ]] && compopt -o nospace 2>/dev/null
                return
            fi
            ;;
    esac
    _PROGRAM "$@"
}
complete -F _PROGRAM_complete -o nosort -o bashdefault -o default PROGRAM
