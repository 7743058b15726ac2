# bash completion for slm-mesh. Without candidates bash completes file names.
_slm_mesh() {
    local word typed=${COMP_WORDS[COMP_CWORD]} format=%q
    case $typed in
        # The user has opened quotes, so bash needs no others.
        [\"\']*) typed=${typed:1} format=%s ;;
        *) typed=${typed//\\/} ;;
    esac
    COMPREPLY=()
    while IFS= read -r word; do
        printf -v word "$format" "$word"
        COMPREPLY+=("$word")
    done < <("${COMP_WORDS[0]}" complete "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$typed" 2>/dev/null | cut -f1)
}
complete -o default -F _slm_mesh slm-mesh
