# bash completion for slm-mesh. If there are no candidates, bash completes file names.
_slm_mesh() {
    local line=${COMP_LINE:0:COMP_POINT} rest word format=%q quote= typed= start=0 i n=0
    local -a words=()
    # bash also splits words at characters such as `:`, `=` and `@`. For slm-mesh, only blanks separate words, so this
    # loop joins the parts again.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        rest=${line#"${line%%[![:blank:]]*}"} word=${COMP_WORDS[i]}
        ((i < COMP_CWORD)) || word=$rest
        if ((i > 0)) && [[ $rest == "$line" ]]; then words[n]+=$word; else n=${#words[@]}; words[n]=$word; fi
        line=${rest#"$word"}
    done
    # bash replaces only the part of a word after the last character at which bash splits words, or after a quote that
    # the user has opened. If that character is `@`, bash replaces it too.
    word=${words[n]}
    for ((i = 0; i < ${#word}; i++)); do
        case $quote${word:i:1} in
            \\ | \"\\) ((++i)); typed+=${word:i:1} ;;
            \'\' | \"\") quote= format=%q ;;
            [\"\']) quote=${word:i:1} format=%s start=${#typed} ;;
            @) start=${#typed} typed+=@ ;;
            *) typed+=${word:i:1}; [[ $quote || $COMP_WORDBREAKS != *"${word:i:1}"* ]] || start=${#typed} ;;
        esac
    done
    COMPREPLY=()
    while IFS= read -r word; do
        printf -v word "$format" "${word:start}"
        COMPREPLY+=("$word")
    done < <("${words[0]}" complete "${words[@]:1:n-1}" "$typed" 2>/dev/null | cut -f1)
}
complete -o default -F _slm_mesh slm-mesh
