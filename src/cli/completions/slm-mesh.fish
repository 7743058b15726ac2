# fish completion for slm-mesh. Each line of `slm-mesh complete` is a word, a tab and a description.
function __slm_mesh_complete
    set -l words (commandline -opc) (commandline -ct)
    slm-mesh complete $words[2..] 2>/dev/null
end
complete -c slm-mesh -f -a '(__slm_mesh_complete)'
complete -c slm-mesh -n '__fish_seen_subcommand_from lock unlock' -F
