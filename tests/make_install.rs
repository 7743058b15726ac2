//! Tests `make install` after different builds: which files it installs, and who can read them. A script replaces
//! cargo.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{BIN, Place, project, put_program};

/// A script that stands in for cargo. In cargo's output directory, it creates a program that prints the arguments of
/// this build.
const CARGO: &str = r#"#!/bin/sh
into=${CARGO_TARGET_DIR:-target}
folder= words="$*"
while [ $# -gt 0 ]; do
  case $1 in
    --target) folder=/$2 ;;
    --target-dir) into=$2 ;;
  esac
  shift
done
mkdir -p "$into$folder/release"
printf '#!/bin/sh\n# %s\nexec "PROGRAM" "$@"\n' "$words" > "$into$folder/release/slm-mesh"
chmod 755 "$into$folder/release/slm-mesh"
"#;

/// A copy of the source tree, with the project's Makefile and a fake cargo.
struct Source {
    place: Place,
    tree: PathBuf,
}

impl Source {
    /// Copies the source tree. Returns `None` if make is not installed.
    fn new() -> Option<Source> {
        if Command::new("make").arg("--version").output().is_err() {
            eprintln!("skipped: there is no make");
            return None;
        }
        let place = Place::new();
        let tree = place.root.join("source");
        for file in ["Makefile", "build.rs", "Cargo.toml", "Cargo.lock", "man/slm-mesh.1", "man/slm-mesh.service"] {
            fs::create_dir_all(tree.join(file).parent().unwrap()).unwrap();
            fs::copy(project().join(file), tree.join(file)).unwrap();
        }
        fs::create_dir(tree.join("src")).unwrap();
        put_program(&tree.join("cargo"), CARGO.replace("PROGRAM", BIN).as_bytes());
        Some(Source { place, tree })
    }

    fn make(&self, umask: &str, words: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut make = Command::new("sh");
        make.args(["-c", &format!("umask {umask}; exec make \"$@\""), "make"]).args(words).current_dir(&self.tree);
        for name in ["MAKEFLAGS", "CARGO_TARGET_DIR", "STATIC", "FEATURES"] {
            make.env_remove(name);
        }
        make.envs(variables.iter().copied()).output().unwrap()
    }

    /// Runs `make` as an ordinary user, with the fake cargo.
    fn build(&self, words: &[&str], variables: &[(&str, &str)]) {
        let cargo = format!("CARGO={}", self.tree.join("cargo").display());
        let out = self.make("022", &[words, &[&cargo]].concat(), variables);
        assert!(out.status.success(), "{words:?} {variables:?}: {out:?}");
    }

    /// Simulates `sudo make install`: cargo is not available, and the environment of the build is lost.
    fn install(&self, words: &[&str]) -> Output {
        self.make("077", &[&["install", "CARGO=false"], words].concat(), &[])
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[test]
fn root_installs_without_cargo_what_a_person_has_built() {
    let Some(source) = Source::new() else { return };
    let elsewhere = source.place.root.join("elsewhere");
    let elsewhere = elsewhere.to_str().unwrap();
    let stage = source.place.root.join("a stage");
    let into = format!("DESTDIR={}", stage.display());
    for (build, variables, install, mark) in [
        (&[][..], &[][..], &[][..], "--bin"),
        (&["STATIC=1"], &[], &[], "crt-static"),
        (&["all", "STATIC=1"], &[], &["STATIC=1"], "crt-static"),
        (&["FEATURES=tls"], &[], &[], "--features tls"),
        (&["FEATURES=tls"], &[], &["FEATURES=tls"], "--features tls"),
        (&[], &[("CARGO_TARGET_DIR", elsewhere)], &[], "--bin"),
    ] {
        fs::remove_dir_all(source.tree.join("target")).ok();
        source.build(build, variables);
        let out = source.install(&[install, &[&into]].concat());
        assert!(out.status.success(), "{build:?} {variables:?} {install:?}: {out:?}");
        let installed = fs::read_to_string(stage.join("usr/local/bin/slm-mesh")).unwrap();
        let is_static = mark == "crt-static";
        assert!(is_static == installed.contains("--target ") && (is_static || installed.contains(mark)), "{installed}");
    }
    // Each argument in the list below asks for a program other than the one that is built here. `make` can't build this
    // other program without cargo, so the installation must fail.
    source.build(&[], &[]);
    for other in ["STATIC=1", "FEATURES=tls"] {
        let out = source.install(&[other, &into]);
        assert!(!out.status.success(), "{other}: {out:?}");
    }
}

#[test]
fn every_user_can_read_what_is_installed_and_systemd_finds_the_unit() {
    let Some(source) = Source::new() else { return };
    source.build(&[], &[]);
    let home = source.place.root.to_str().unwrap().to_owned();
    let own = format!("{home}/.local");
    let cases = [("/opt/x", "lib/systemd/user"), (own.as_str(), "share/systemd/user")];
    for (prefix, units) in cases {
        let stage = source.place.root.join("a stage");
        let words = ["install", "CARGO=false", &format!("DESTDIR={}", stage.display()), &format!("PREFIX={prefix}")];
        // The second run installs over the files of the first run.
        for _ in 0..2 {
            let out = source.make("077", &words, &[("HOME", &home)]);
            assert!(out.status.success(), "{prefix}: {out:?}");
            let root = stage.join(&prefix[1..]);
            let unit = root.join(units).join("slm-mesh.service");
            for file in [
                &unit,
                &root.join("share/man/man1/slm-mesh.1"),
                &root.join("share/bash-completion/completions/slm-mesh"),
                &root.join("share/zsh/site-functions/_slm-mesh"),
                &root.join("share/fish/vendor_completions.d/slm-mesh.fish"),
            ] {
                assert_eq!(mode(file), 0o644, "{}", file.display());
                assert_eq!(mode(file.parent().unwrap()), 0o755, "{}", file.display());
                fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
            }
            assert_eq!(mode(&root.join("bin/slm-mesh")), 0o755);
            let unit = fs::read_to_string(unit).unwrap();
            assert!(unit.contains(&format!("ExecStart={prefix}/bin/slm-mesh start")), "{unit}");
            // The restrictions of the broker's unit also apply to the user's command for alerts.
            // `MemoryDenyWriteExecute` would break commands that run on node.
            assert!(!unit.contains("\nMemoryDenyWriteExecute"), "{unit}");
        }
        let words = [&["uninstall"], &words[2..]].concat();
        assert!(source.make("022", &words, &[("HOME", &home)]).status.success());
        let left = Command::new("find").arg(&stage).args(["-type", "f"]).output().unwrap();
        assert!(left.stdout.is_empty(), "{left:?}");
    }
}
