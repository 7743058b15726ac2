# fish completion for slm-mesh. Each line of `slm-mesh complete` is a word, a tab and a description. If there are no
# candidates, fish completes file names.
function __slm_mesh_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    # fish selects the candidates that begin with the typed word, and it understands quotes and backslashes in this
    # word. So slm-mesh is told the typed word only if it is a flag, and lists all candidates otherwise.
    string match -q -- '-*' $typed; or set typed ''
    slm-mesh complete $words[2..] "$typed" 2>/dev/null
end
complete -c slm-mesh -f -a '(__slm_mesh_complete)'
complete -c slm-mesh -n 'not count (__slm_mesh_complete) >/dev/null' -F
complete -c slm-mesh -n '__fish_seen_subcommand_from lock unlock' -F
