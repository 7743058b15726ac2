# bash completion for slm-mesh. Without candidates bash completes file names.
_slm_mesh() {
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)
}
complete -o default -F _slm_mesh slm-mesh
