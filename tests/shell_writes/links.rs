//! Symbolic links. A command that replaces or removes a link writes only the link, and not the file to which it points.

use slm_mesh::shell_writes::{Disk, ShellWrite, written_files};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// Creates a folder with a few files, a link to the file `held`, and a link to the folder `real/dir`.
fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("slm-mesh-links-{}", std::process::id()));
    fs::create_dir_all(folder.join("real/dir")).unwrap();
    ["held", "a", "up", "real/up", "real/dir/in"].iter().for_each(|name| fs::write(folder.join(name), "1").unwrap());
    symlink("held", folder.join("link")).unwrap();
    symlink("real/dir", folder.join("linkdir")).unwrap();
    fs::canonicalize(folder).unwrap()
}

#[test]
fn only_a_write_through_a_link_writes_its_target() {
    let folder = folder();
    let directory = folder.to_str().unwrap();
    for (command, want) in [
        ("echo > link; cp a link; tee link", "link"),
        ("rm link; unlink link", "link itself"),
        ("mv link b", "b link itself"),
        ("mv a link", "a link itself"),
        ("ln -sf a link; install a link", "link itself"),
        ("sed -i s/a/b/ link; perl -pi -e s/a/b/ link", "link itself"),
        ("sed -i --follow-symlinks s/a/b/ link", "link"),
        ("rm -rf linkdir", "linkdir itself"),
        ("rm -rf linkdir/; rm linkdir/", ""),
        ("ln -sfn a linkdir", "linkdir itself"),
        ("rm linkdir/in", "linkdir/in"),
        // In a path, `..` after a link means the folder above the link's target. But in the argument of `cd`, `..`
        // means the folder that contains the link.
        ("echo > linkdir/../up", "real/up"),
        ("cd linkdir; rm ../up", "real/up"),
        ("git -C linkdir rm ../up", "real/up"),
        ("env -C linkdir sh -c 'cd ..; rm up'", "real/up"),
        ("cd linkdir/..; rm up", "up"),
        ("cd linkdir; rm \"$PWD/../up\"", "real/up"),
        // With -P, `cd` follows the link, so `..` means the folder above its target.
        ("cd -P linkdir && cd .. && echo > up", "real/up"),
        ("cd -LP linkdir/.. && echo > up", "real/up"),
        ("cd -P -L linkdir && cd .. && echo > up", "up"),
        ("set -P; cd linkdir; cd ..; echo > up", "real/up"),
        ("set -o physical; pushd linkdir/..; echo > up", "real/up"),
        ("set -P; set +P; cd linkdir; cd ..; echo > up", "up"),
        ("cd linkdir; cd \"$(pwd -P)/..\"; echo > up", "real/up"),
        ("zsh -c 'setopt CHASE_LINKS; cd linkdir; cd ..; echo > up'", "real/up"),
        ("mkdir -p new && cd -P new/.. && echo > up", "up"),
        // In the first two commands, it is unknown whether `set -P` takes effect. In the last two, it is unknown where
        // the new link leads.
        ("if x; then set -P; fi; cd linkdir; cd ..; echo > up", ""),
        ("if x; then set -P; fi; cd real/dir; cd ..; echo > up", "real/up"),
        ("ln -s real/dir made; echo > made/../up; cd -P made && cd .. && echo > up", "made"),
        ("ln -sfn real linkdir; echo > linkdir/../up; cd -P linkdir && cd .. && echo > up", "linkdir itself"),
    ] {
        let writes = written_files(command, directory, &|_| None, &Disk::new(&folder));
        let name = |write: &ShellWrite| {
            let name = write.path().strip_prefix(directory).unwrap().display().to_string();
            if matches!(write, ShellWrite::Link(_)) { name + " itself" } else { name }
        };
        let names = writes.iter().map(name);
        assert_eq!(names.collect::<Vec<_>>().join(" "), want, "{command}");
    }
    fs::remove_dir_all(folder).unwrap();
}
